"""What would have happened: traces of jobs, replayed through the daemon's own core with a virtual clock.

The world, the cycle, the policies are those of gpud; here are only the parts that the world outside plays there: who
submits, how long a job runs, what a preemption costs. A policy that looks good here is the policy that will run.
`python -m gpud.simulator` replays one trace under one policy and prints JSON lines; `gpuctl simulate` runs one such
process for each policy and makes a table of them.
"""
