"""Scripts with `#SBATCH` lines, run: what they are told, and what they find of Slurm."""

import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gpud_process import until

from gpud.launchers.checkpoints import Checkpoints
from gpud.slurm.jobs import job_name, job_number
from gpud.slurm.scontrol import hostnames

BIN = Path(__file__).parents[2] / "gpud" / "slurm" / "bin"
DDP = """#!/bin/bash -le
#SBATCH --job-name=ddp
#SBATCH --nodes=1 --ntasks-per-node=2
#SBATCH --gres=gpu:2 --gpus-per-task=1
#SBATCH --cpus-per-task=1 --mem=1G
#SBATCH --array=3-5:2
#SBATCH --time=5
#SBATCH --output=%x-%A_%2a.out
nodes=( $(scontrol show hostnames $SLURM_JOB_NODELIST) )
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname)
echo "head $ip of $SLURM_NNODES: $((SLURM_JOB_ID % 1000 >= 0))"
echo "job $SLURM_ARRAY_JOB_ID element $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT"
echo "from $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX by $SLURM_ARRAY_TASK_STEP"
echo "asked $SLURM_CPUS_PER_TASK $SLURM_NTASKS_PER_NODE $SLURM_MEM_PER_NODE $SLURM_GPUS_ON_NODE"
echo "outside ${SLURM_NTASKS-none} ${SLURM_PROCID-none} ${SLURM_LOCALID-none}"
export CUDA_VISIBLE_DEVICES=6,7
env srun -l bash -c 'echo "rank $SLURM_PROCID/$SLURM_NTASKS local $SLURM_LOCALID gpu $CUDA_VISIBLE_DEVICES"' | sort
scontrol show job $SLURM_JOB_ID | grep -o -e 'StdOut=.*' -e 'TimeLimit=[^ ]*'
echo "may run $((SLURM_JOB_END_TIME - SLURM_JOB_START_TIME)) s"
srun bash -c 'exit $((SLURM_PROCID + 3))' || echo "status $?"
up=up$SLURM_ARRAY_TASK_ID
greet() { echo "greets from $SLURM_PROCID"; }
export -f greet
srun -n1 bash -c greet
srun -n1 bash -lc "scontrol show hostnames; trap 'exit 7' TERM; : > $up; while :; do sleep 0.05; done" &
until [ -e $up ]; do sleep 0.05; done
kill $!
wait $! || echo "ended $?"
"""
CHAIN = """#!/bin/sh
#SBATCH --gpus=2 --ntasks=2 -t 5 -o first.out
after=--dependency=afterok:$SLURM_JOB_ID
second=$(sbatch --parsable $after -J second -o second.out --wrap='echo $SLURM_JOB_NAME $GPUD_STEP_TASKS')
echo "second $second"
third=$(sbatch --hold third.sh | awk '{print $4}')
scontrol show job $third | grep -o -e 'JobState=[A-Z]*' -e 'TimeLimit=[^ ]*' -e 'Command=.*'
scancel $third
srun -n1 --gpus=1 sh -c 'echo gpu $CUDA_VISIBLE_DEVICES; : > one; until [ -e two ]; do sleep 0.05; done' &
srun -n1 --gpus=1 sh -c 'echo gpu $CUDA_VISIBLE_DEVICES; : > two; until [ -e one ]; do sleep 0.05; done' &
wait
export PYTHONPATH=ROOT
PYTHON -m gpuctl submit -g 0 -o plain.out -- sh -c 'env | grep -E "SLURM|GPUD_STEP|slurm/bin"; echo none'
"""


def test_a_distributed_array_runs_as_it_did_on_its_cluster(gpuctl):
    (gpuctl.directory / "ddp.sbatch").write_text(DDP)
    job = gpuctl.ok("submit", "ddp.sbatch")
    gpuctl.ok("wait", job)
    node = os.uname().nodename
    for index in (3, 5):
        output = gpuctl.directory / f"ddp-{job}_0{index}.out"
        said = [line for line in output.read_text().splitlines() if not line.startswith(("srun: ", "Terminated"))]
        assert said == [
            f"head {node} of 1: 1",
            f"job {job} element {index} of 2",
            "from 3 to 5 by 2",
            "asked 1 2 1024 2",
            "outside none none none",
            "0: rank 0/2 local 0 gpu 0",
            "1: rank 1/2 local 1 gpu 1",
            "TimeLimit=00:05:00",
            f"StdOut={output}",
            "may run 300 s",
            "status 4",
            "greets from 0",
            node,
            "ended 7",
        ]


def test_a_job_queues_others_and_shares_its_gpus_among_its_steps(gpuctl):
    chain = CHAIN.replace("PYTHON -m", f"{sys.executable} -m").replace("=ROOT", f"={BIN.parents[2]}")
    (gpuctl.directory / "chain.sbatch").write_text(chain)
    (gpuctl.directory / "third.sh").write_text("#!/bin/sh\ntrue\n")
    first = gpuctl.ok("submit", "chain.sbatch")
    gpuctl.ok("wait", first)
    said = (gpuctl.directory / "first.out").read_text()
    second = re.search(r"second (\d+)", said)[1]
    gpuctl("wait", second, str(int(second) + 1), str(int(second) + 2))
    assert sorted(re.findall(r"^gpu (\d)$", said, re.MULTILINE)) == ["0", "1"]
    assert (gpuctl.directory / "second.out").read_text() == "second 1\n"
    assert (gpuctl.directory / "plain.out").read_text() == "none\n"
    assert {"JobState=PENDING", "TimeLimit=UNLIMITED", f"Command={gpuctl.directory}/third.sh"} <= {*said.splitlines()}
    jobs = gpuctl.json("list")
    assert [job["state"] for job in jobs] == ["completed", "completed", "cancelled", "completed"]
    named = [str(gpuctl.directory / name) for name in ("chain.sbatch", "wrap", "third.sh")]
    assert [job["command"][0] for job in jobs[:3]] == named


def test_a_dry_run_says_what_was_understood_also_of_what_cannot_be_had(gpuctl):
    script = gpuctl.directory / "job.sbatch"
    lines = "#SBATCH --gres=gpu:v100:2 -p gpu -t 30\n#SBATCH -n 2 --signal=B:USR1@120 --export=NONE\n"
    script.write_text(f"#!/bin/sh\n{lines}true\n")
    done = gpuctl("submit", "--dry-run", "--json", "job.sbatch")
    fits = gpuctl("submit", "--dry-run", "--gpu-type", "*", "job.sbatch")
    assert (done.returncode, fits.returncode) == (1, 0)
    assert "--gpu-type '*' job.sbatch" in done.stderr
    assert '"gpu_type": "v100"' in done.stdout
    assert fits.stdout.startswith("gpuctl submit --gpus 2 --gpu-type '*' --cpus 2 --time-limit 30m")
    assert "line 2: --partition=gpu: there are no partitions here" in fits.stderr
    assert "SIGUSR1 goes to the script 120 s before the time limit" in fits.stderr
    assert "of your variables it gets those of a login" in fits.stderr
    assert "srun starts 2 tasks" in fits.stderr
    assert gpuctl.json("list") == []


def test_options_of_a_call_of_sbatch_stand_behind_those_of_the_script_s_first_part(gpuctl):
    lines = "#SBATCH -c 2 --comment 'a # b' # c\n#SBATCH hetjob\n#SBATCH -c 8\n"
    (gpuctl.directory / "parts.sbatch").write_text(f"#!/bin/sh\n{lines}srun --het-group=1 true\n")
    words = [BIN / "sbatch", "--test-only", "-n", "3", "parts.sbatch"]
    environ = {**gpuctl.environ, "GPUD_STEP_PYTHON": sys.executable}
    done = subprocess.run(words, env=environ, cwd=gpuctl.directory, stderr=subprocess.PIPE, text=True, check=True)
    assert "gpuctl submit --gpus 0 --cpus 6 --label 'comment=a # b'" in done.stderr
    assert "parts.sbatch, line 5: srun --het-group cannot be had here" in done.stderr


def srun(*words, **settings):
    """Run srun as it would be in a job of two tasks and two GPUs."""
    told = {"GPUD_STEP_PYTHON": sys.executable, "GPUD_STEP_TASKS": "2", "CUDA_VISIBLE_DEVICES": "4,6"}
    environ = dict(os.environ) | told | settings.pop("environ", {})
    return subprocess.Popen(
        [BIN / "srun", *words], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def ended(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("bind", "words", "seen"),
    [
        ("none", (), ["0 4,6", "1 4,6"]),
        ("single:1", (), ["0 4", "1 6"]),
        ("verbose,per_task:1", (), ["0 4", "1 6"]),
        ("closest", (), ["0 4", "1 6"]),
        ("map_gpu:1,0", (), ["0 6", "1 4"]),
        ("single:0", ("--export=ALL,=1",), ["0 4,6", "1 4,6"]),
        ("none", ("--gpu-bind=single:2",), ["0 4", "1 4"]),
    ],
)
def test_a_step_s_tasks_see_the_gpus_that_the_script_said(bind, words, seen):
    asked = {"SLURM_GPU_BIND": bind, "GPUD_STEP_GPUS_PER_TASK": "1"}
    step = srun(*words, "sh", "-c", "echo $SLURM_LOCALID $CUDA_VISIBLE_DEVICES", environ=asked)
    assert sorted(ended(step)[1].splitlines()) == seen


def test_every_task_is_told_where_it_is_by_slurm_s_own_names():
    names = (
        "NODEID PROCID LOCALID NTASKS NTASKS_PER_NODE TASKS_PER_NODE STEP_NUM_NODES STEP_TASKS_PER_NODE STEP_NODELIST"
    )
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "a,b", "SLURM_NODEID": "0", "GPUD_STEP_TASKS": "4"}
    told = "echo " + " ".join(f"$SLURM_{name}" for name in names.split())
    assert sorted(ended(srun("sh", "-c", told, environ=job))[1].splitlines()) == [
        "0 0 0 4 2 2(x2) 2 2(x2) a,b",
        "0 1 1 4 2 2(x2) 2 2(x2) a,b",
        "1 2 0 4 2 2(x2) 2 2(x2) a,b",
        "1 3 1 4 2 2(x2) 2 2(x2) a,b",
    ]


def test_of_a_job_of_several_parts_the_first_one_s_steps_run():
    assert ended(srun("--het-group=0", "-n1", "echo", "here"))[:2] == (0, "here\n")
    status, _, err = ended(srun("--pack-group=1", "-n1", "echo", "here"))
    assert (status, "only the first was queued" in err) == (1, True)
    status, out, err = ended(srun("-n1", "echo", "a", ":", "-n1", "echo", "b"))
    assert (status, out, "only the first was queued" in err) == (1, "", True)


def test_one_that_fails_ends_the_others_only_where_that_is_asked(tmp_path):
    fails = "test $SLURM_PROCID = 0 && { until test -e ready; do sleep 0.02; done; exit 5; }"
    fails += "; trap 'echo told; exit 9' TERM; : > ready; sleep 60 & wait"
    status, out, err = ended(srun("-K", "bash", "-c", fails, cwd=tmp_path))
    assert (status, out) == (9, "told\n")
    assert "task 0: Exited with exit code 5" in err
    status, out, _ = ended(srun("sh", "-c", "test $SLURM_PROCID = 0 && exit 5; echo done"))
    assert (status, out) == (5, "done\n")


@pytest.mark.parametrize("saves", [False, True])  # as a person sends it; as gpud asks the steps of a job to save
def test_a_signal_reaches_every_task(tmp_path, saves):
    waits = "trap 'echo $SLURM_PROCID; exit 0' USR1; : > ready-$SLURM_PROCID; while :; do sleep 0.05; done"
    told = {"GPUD_STEP_SIGNAL": str(int(signal.SIGUSR1))} if saves else {}
    process = srun("bash", "-c", waits, cwd=tmp_path, environ=told)
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    if saves:
        asks = Checkpoints([signal.SIGUSR1, None, 90.0, "steps"], os.getpid())
        assert asks.ask_last(None, 10.0, lambda: [process.pid]) == 5.0
    else:
        process.send_signal(signal.SIGUSR1)
    status, out, _ = ended(process)
    assert (status, sorted(out.split())) == (0, ["0", "1"])


def test_a_signal_from_another_job_goes_to_what_srun_started_and_not_to_the_script(tmp_path):
    waits = "trap 'echo told; exit 0' USR1; : > ready-$SLURM_PROCID; while :; do sleep 0.05; done"
    step = srun("bash", "-c", waits, cwd=tmp_path, environ={"GPUD_STEP_LOCKS": f"{tmp_path}/scripts/12_3.1"})
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    here = {"GPUD_STEP_PYTHON": sys.executable, "SLURM_JOB_ID": "7", "GPUD_STEP_LOCKS": f"{tmp_path}/scripts/7.1"}
    words = [BIN / "scancel", "--signal=USR1", "12_3"]
    assert subprocess.run(words, env=os.environ | here, check=False).returncode == 0
    assert ended(step)[:2] == (0, "told\ntold\n")


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("--gpus-per-task=1", ["4", "6"]),
        ("--ntasks-per-gpu=1 --gpus=2", ["4", "6"]),
        ("--gpu-bind=single:1", ["4", "6"]),
        ("-n3", ["4,6", "4,6", "4,6"]),
        ("--ntasks= -n --gpus=1", ["4", "4"]),
        ("-n 1 --gres=gpu:1", ["4"]),
        ("--gres=none", ["", ""]),
    ],
)
def test_gpus_are_bound_to_tasks_as_asked(words, seen):
    status, out, err = ended(srun(*words.split(), "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"))
    assert (status, sorted(out.splitlines())) == (0, seen), err


@pytest.mark.parametrize(
    ("said", "seen", "told"),
    [
        ("0,1", "4,6", "CUDA_VISIBLE_DEVICES=0,1 are not this job's GPUs: tasks see 4,6"),
        ("4,5", "4,6", "tasks see 4,6"),
        ("6", "6", ""),  # one of its own
        ("GPU-b", "GPU-b", ""),
        ("", "", ""),
        ("-1", "-1", ""),
        (None, "4,6", ""),
    ],
)
def test_tasks_see_no_gpus_of_others_whatever_the_script_says(said, seen, told):
    job = {"GPUD_STEP_GPUS": "4,6", "GPUD_GPU_UUIDS": "GPU-a,GPU-b"}
    words = ["env", "-u", "CUDA_VISIBLE_DEVICES"] if said is None else ["env", f"CUDA_VISIBLE_DEVICES={said}"]
    environ = os.environ | {"GPUD_STEP_PYTHON": sys.executable} | job
    task = ["sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}"]
    done = subprocess.run([*words, BIN / "srun", *task], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{seen}\n"
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


def test_each_task_may_have_a_file_and_a_step_that_cannot_be_is_refused(tmp_path):
    assert ended(srun("-o", "%3t-%x.txt", "hostname", cwd=tmp_path, environ={"SLURM_JOB_NAME": "job"}))[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000-job.txt", "001-job.txt"]
    refused = [("--gpus=3 true", "asks for 3 GPUs"), ("--wibble true", "--wibble"), ("", "no command")]
    for words, said in (*refused, ("-D /nowhere true", "--chdir=/nowhere: No such")):
        status, out, err = ended(srun(*words.split()))
        assert (status, out) == (1, ""), words
        assert said in err


@pytest.mark.parametrize(("words", "seen"), [("", "0 1 in in"), ("-i none", "0 1"), ("-i 1", "0 1 in")])
def test_what_comes_in_goes_to_every_task_and_a_task_writes_to_nobody_in_vain(words, seen):
    process = srun(*words.split(), "bash", "-c", "cat; yes $SLURM_PROCID | head -n 1", stdin=subprocess.PIPE)
    out, err = process.communicate("in\n", timeout=30)
    assert (sorted(out.split()), err) == (seen.split(), "")


def test_each_task_may_have_a_program_of_its_own(tmp_path):
    (tmp_path / "programs").write_text(
        "# ranks\n0 echo first %t\n1-2 sh -c 'echo \"$0 of $1\"' \\\n %o %t\n* echo rest\n"
    )
    out = ended(srun("-n4", "--multi-prog", "programs", cwd=tmp_path))[1]
    assert sorted(out.splitlines()) == ["0 of 1", "1 of 2", "first 0", "rest"]
    (tmp_path / "programs").write_text("0 echo")
    assert "says nothing of task 1" in ended(srun("--multi-prog", "programs", cwd=tmp_path))[2]


SIGNALLED = """#!/bin/bash
#SBATCH -t 5 -n 2 -o signalled.out
trap 'echo script' USR1
. /etc/profile
[ "$SLURM_TMPDIR$SLURM_GPUS_ON_NODE" = "$TMPDIR" ] && touch "$SLURM_TMPDIR/here" && echo room
srun bash -c 'trap "echo task; exit 0" USR1; : > $SLURM_PROCID; while :; do sleep 0.05; done' &
until [ -e 0 ] && [ -e 1 ]; do sleep 0.05; done
scancel --signal=USR1 $SLURM_JOB_ID
until wait; do :; done
scancel -s SIGUSR1 -b $SLURM_JOB_ID
scancel -n other && echo "nothing else"
scontrol write batch_script $SLURM_JOB_ID copy; cmp copy "$0" && echo copied
srun --jobid=999 echo elsewhere || echo "status $?"
squeue -h -p other
squeue -h -p other,gpud --me -t R -j $SLURM_JOB_ID -o '%.4t|%T|%.3u|%l|%P|%D'
scontrol update JobId=$SLURM_JOB_ID TimeLimit=1-1 && squeue -h -n signalled.sbatch -o 'limit %l'
scontrol show job | grep -o 'TimeLimit=[^ ]*'
scontrol update job $SLURM_JOB_ID Gres=gpu:2 || echo "status $?"
sbatch --hold --array=1,4-8:2 --wrap=true
squeue -t PD -r -O state:9,name:5,arraytaskid:2
scancel --me -t PD
squeue -rh -n wrap && echo "nothing waits"
echo "counted $(sacct -n -s TO | wc -l) $(sacct -nS now-2days --name wrap -s CA,F -o JobID | head -n 1)"
sbatch --test-only --wrap=true && squeue -h -t PD
sbatch -W -o /dev/null --wrap='exit 7' || echo "waited $?"
sacct -nPX --delimiter=, -S 1h -o JobName,State,ExitCode,NCPUS
sacct -j $SLURM_JOB_ID.batch --format=State%9,MaxRSS
echo end
"""


def test_scancel_signals_steps_or_the_script_and_cancels_neither(gpuctl):
    (gpuctl.directory / "signalled.sbatch").write_text(SIGNALLED)
    job = gpuctl.ok("submit", "signalled.sbatch")
    assert gpuctl("wait", job).returncode == 0
    said = (gpuctl.directory / "signalled.out").read_text().splitlines()
    told = ["room", "task", "task", "script", "nothing else", "copied", "status 125", "limit 1-01:00:00"]
    told += ["TimeLimit=1-01:00:00", "status 1", "nothing waits", "waited 7"]
    assert [line for line in said if line in told] == told
    assert "elsewhere" not in said
    assert "gpuctl: a dry run: it would be queued" in said
    assert [line for line in said if "PENDING" in line] == [f"PENDING  wrap {index}" for index in (1, 4, 6, 8)]
    assert f"   R|RUNNING|{pwd.getpwuid(os.getuid()).pw_name[:3]}|5:00|gpud|1" in said
    assert any(re.fullmatch(r"counted 0 +\d+", line) for line in said)
    assert said[-1] == "end"
    assert {"wrap,FAILED,7:0,1", "signalled.sbatch,RUNNING,0:0,2", "    State     MaxRSS", "  RUNNING"} <= set(said)
    held = gpuctl.ok("submit", "--hold", "--", "true")
    environ = {**gpuctl.environ, "GPUD_STEP_PYTHON": sys.executable}
    subprocess.run([BIN / "scancel", "--state=PENDING", "-n", "x,true"], env=environ, check=True)
    assert gpuctl.json("show", held)["state"] == "cancelled"


def test_lists_of_hosts_and_numbers_of_elements_are_read():
    assert hostnames("gpu[01-03,7],head,a[1-2]-ib") == ["gpu01", "gpu02", "gpu03", "gpu7", "head", "a1-ib", "a2-ib"]
    assert [job_name("12"), job_name("12_7"), job_name(job_number("12_7"))] == ["12", "12_7", "12_7"]
