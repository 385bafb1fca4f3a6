# What `#!/bin/bash -l` reads behind the machine's profile, which sets PATH anew: BASH_ENV names it, for once.
unset BASH_ENV
PATH=$GPUD_STEP_BIN:$PATH
