# What `#!/bin/bash -l` and every bash in it read behind the machine's profile, which sets PATH anew. Where programs are
# found so, functions of their names go: `kill $!` behind `srun ... &` would end the function, and not tell srun.
if [ -n "${GPUD_STEP_BIN-}" ]; then
    unset -f srun scontrol sbatch scancel squeue sacct
    case :$PATH: in *:"$GPUD_STEP_BIN":*) ;; *) PATH=$GPUD_STEP_BIN:$PATH ;; esac
fi
