"""gpud: a queue for the GPUs of one workstation or a few servers.

The map, from the ground up; an arrow of imports only ever points down this list:

* `model`: values that never change; what everything else speaks in.
* `core`: decides who runs next and why everyone else waits; no clock, no disk, no GPU.
* `wire`: the protocol on one page, its bytes, and where the socket is.
* `inventory`: what GPUs there are and what is on them. `launchers`: processes. `store`: SQLite. Each does I/O of
  one kind, knows nothing of the others, and speaks in `model`.
* `simulator`: replays traces through `core`, where the daemon stands otherwise; nothing imports it. `slurm`: what
  `#SBATCH` scripts find in their jobs, programs of their own.
* The edges of the daemon: `settings`; `people`, who there is and what they may; `server`, the socket; `intake`, from a
  message to a command; `views`, what people see; `notices`, what they are told of elsewhere; `chores`, what is done
  beside the queue. `instance`: what they share. `requests` and `answers`: what changes something, and what only looks.
* `daemon`: the loop that joins all, fed by `inbox`.
* `__main__`: the composition root.
"""

__version__ = "0.1.0"
