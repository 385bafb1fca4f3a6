"""What is understood of scripts' own options: `#GPUCTL` and `#SBATCH` lines, of scripts as people have them."""

import getpass
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuctl.commands.submit import submit
from gpuctl.errors import UsageError
from gpuctl.slurm import values
from gpuctl.slurm.mapping import user
from gpuctl.submitting import submission, understanding
from gpud.core.placement import type_matches

SHELF = Path(__file__).parents[1] / "data" / "sbatch"
SCRIPTS = sorted(path.name for path in SHELF.iterdir() if path.suffix != ".txt")
GOLDEN = SHELF / "understood.txt"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Stand in a directory of one's own, at Greenwich."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


def asked(*words):
    context = submit.make_context("submit", [str(word) for word in words])
    request, script = submission.asked(context.params, literal=context.meta["gpuctl.literal"])
    assert script is not None
    return request, script, understanding.line(understanding.written(context.command, script.given))


def script_of(here, *lines):
    path = here / "job.sbatch"
    path.write_text("\n".join(["#!/bin/bash", *lines, "true", ""]))
    return path


def told_of(name):
    """Return how a script was understood, as the golden file has it."""
    _, script, line = asked(SHELF / name)
    variables = script.of_slurm.environment if script.of_slurm else {}
    shown = [
        f"{key}={value}"
        for key, value in sorted(variables.items())
        if "SUBMIT" not in key and value not in ("gpud", "normal")
    ]
    fields = [f"{key}={value}" for key, value in sorted(script.fields.items()) if key != "sbatch"]
    of_machine = ("sendmail", "there is no command")
    notes = [note.removeprefix(f"{name}, ") for note in script.notes if not any(word in note for word in of_machine)]
    here = f"{getpass.getuser()}-{os.uname().nodename.partition('.')[0]}-"
    said = [line.replace(f"{SHELF}/", "").replace(here, "USER-NODE-"), *notes, " ".join([*shown, *fields])]
    return "\n".join([name, *(f"  {each}" for each in said if each), ""])


def test_the_shelf_is_understood_as_it_is_written_down():
    told = "\n".join(told_of(name) for name in SCRIPTS)
    if "GPUD_WRITE_GOLDEN" in os.environ:
        GOLDEN.write_text(told)
    assert told == GOLDEN.read_text()


def test_the_command_line_wins_over_gpuctl_lines_and_those_over_sbatch_lines(here):
    lines = ("#SBATCH --gres=gpu:v100:1 -t 60 -J slurm -o o.txt", "#GPUCTL -g 2 -n own -e A=1 -e B=1 --not-gpu 7")
    request, _, _ = asked("-t", "5m", "-e", "B=2", "--not-gpu=5", script_of(here, *lines))
    assert request["demand"] == {"gpus": 2, "gpu_type": "v100", "excluded_gpus": ["7", "5"]}
    assert (request["time_limit_s"], request["name"], request["output"]) == (300.0, "own", f"{here}/o.txt")
    assert (request["environment"]["A"], request["environment"]["B"]) == ("1", "2")
    assert request["sbatch"] is True


@pytest.mark.parametrize(
    ("words", "gpus"),
    [("", 2), ("-g 4", 4), ("-g 0", 0), ("--gpus-per-node 3", 3), ("-g 0.5", 1)],
)
def test_how_many_gpus_is_said_once_by_whoever_wins(here, words, gpus):
    request, _, _ = asked(*words.split(), script_of(here, "#SBATCH --gpus-per-node=2"))
    assert request["demand"]["gpus"] == gpus


def test_nodes_of_a_cluster_can_be_taken_back_on_the_command_line(here):
    script = script_of(here, "#SBATCH --nodes=4 --gres=gpu:2")
    assert asked(script)[0]["demand"] == {"gpus": 8, "nodes": 4}
    assert asked("--nodes", "1", script)[0]["demand"] == {"gpus": 2}


@pytest.mark.parametrize(
    ("lines", "typed", "gpus", "tasks", "cpus"),
    [
        ("-N 2 --ntasks-per-node=8 --gpus-per-node=8 -c 4", "", 16, "16", 32),
        ("-N 2 --ntasks-per-node=8 --gpus-per-node=8 -c 4", "--nodes 1", 8, "8", 32),
        ("-N 2 --ntasks-per-node=8 --gpus-per-node=8 -c 4", "--nodes 1 -g 4", 4, "4", 16),
        ("-N 2 --ntasks-per-node=8 --gpus-per-node=8 -c 4", "--nodes 1 --gpus-per-node 2", 2, "2", 8),
        ("-N 2 --ntasks-per-node=1 --gres=gpu:8", "--nodes 1", 8, "1", None),
        ("-N 2 --ntasks-per-node=1 --gres=gpu:8", "--nodes 1 -g 4", 4, "1", None),
        ("-N 2 -n 8 --gpus-per-task=1", "--nodes 1", 4, "4", 4),
        ("--gpus=4", "--nodes 2 --gpus-per-node 1", 2, "1", None),
        ("-N 2 -n 8 --gpus=8", "--nodes 1", 4, "4", 4),
        ("-n 4 --gpus=8", "-g 4", 4, "2", 2),
        ("-n 4 --gpus=1 -c 2", "-g 2", 2, "4", 8),
        ("-n 4 -c 2", "-g 1", 1, "4", 8),
        ("-n 4 --gpus=4", "-g 8", 8, "4", 4),
        ("--gpus-per-node=4 --ntasks-per-gpu=1 -c 8", "", 4, "4", 32),
    ],
)
def test_with_less_typed_srun_starts_fewer_tasks(here, lines, typed, gpus, tasks, cpus):
    request, script, _ = asked(*typed.split(), script_of(here, f"#SBATCH {lines}"))
    assert (request["demand"]["gpus"], request["demand"].get("cpus")) == (gpus, cpus)
    assert script.of_slurm.environment["GPUD_STEP_TASKS"] == tasks
    assert script.of_slurm.environment.get("SLURM_NTASKS_PER_NODE", tasks) in (tasks, "8")


@pytest.mark.parametrize(
    ("line", "words", "told"),
    [
        ("-p gpu-long", "", "--partition=gpu-long: no line asks for GPUs, so there are none: add --gpus N"),
        ("--exclusive", "", "--exclusive: no line asks for GPUs"),
        ("-p gpu -G 1", "", None),
        ("-p gpu", "-g 2", None),
        ("-p cpu", "", None),
        ("-p gpu", "--gpu-type *", None),
    ],
)
def test_where_a_cluster_may_have_given_gpus_without_a_word_it_is_said_that_there_are_none(here, line, words, told):
    notes = asked(*words.split(), script_of(here, f"#SBATCH {line}"))[1].notes
    assert any("no line asks for GPUs" in note for note in notes) == (told is not None)
    assert told is None or any(told in note for note in notes)


def test_resources_of_a_task_in_one_option_are_read(here):
    assert asked(script_of(here, "#SBATCH --tres-per-task=gpu:2"))[0]["demand"] == {"gpus": 2}
    lines = "#SBATCH -n 2 --tres-per-task=cpu=4,gres/gpu:a100:2,license/x:1"
    request, script, _ = asked(script_of(here, lines))
    assert request["demand"] == {"gpus": 4, "gpu_type": "a100", "cpus": 8}
    assert script.notes == ["job.sbatch, line 2: --tres-per-task=license/x:1: means nothing here; left out"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("a100_80", "NVIDIA A100-SXM4-80GB"),
        ("tesla_a100-80g", "NVIDIA A100-SXM4-80GB"),
        ("nvidia_v100", "Tesla V100-SXM2-32GB"),
        ("tesla_v100-sxm2-32gb", "Tesla V100-SXM2-32GB"),
        ("nvidia_quadro_rtx_8000", "Quadro RTX 8000"),
        ("quadro_rtx_a6000", "NVIDIA RTX A6000"),
        ("nvidia_geforce_rtx_2080_ti", "NVIDIA GeForce RTX 2080 Ti"),
        ("titanrtx", "NVIDIA TITAN RTX"),
        ("tesla", "Tesla T4"),
    ],
)
def test_a_gpu_is_known_by_the_names_that_clusters_have_for_it(here, kind, name):
    pattern = asked(script_of(here, f"#SBATCH --gres=gpu:{kind}:1"))[0]["demand"]["gpu_type"]
    assert type_matches(pattern, name)


def test_another_gpu_of_the_same_maker_is_not_what_was_asked_for(here):
    pattern = asked(script_of(here, "#SBATCH --gres=gpu:a100_80:1"))[0]["demand"]["gpu_type"]
    assert not type_matches(pattern, "NVIDIA A100-PCIE-40GB")
    pattern = asked(script_of(here, "#SBATCH --gpus=tesla_v100:1"))[0]["demand"]["gpu_type"]
    assert not type_matches(pattern, "Tesla P100-PCIE-16GB")


def test_fewer_tasks_than_a_script_asks_for_are_told_of(here):
    _, script, _ = asked("-g", "2", script_of(here, "#SBATCH --gres=gpu:8 --ntasks-per-node=8"))
    assert script.notes == ["job.sbatch, line 2: --ntasks-per-node=8: with so many GPUs srun starts 2 tasks, not 8"]


def test_a_signal_has_its_time_where_that_is_typed(here):
    script = script_of(here, "#SBATCH --signal=USR1@60")
    assert "there is no end" in asked(script)[1].notes[0]
    assert asked("-t", "1h", script)[1].notes == []


def test_what_comes_after_an_element_may_name_it_by_its_slurm_job_id(here):
    script = script_of(here, f"#SBATCH -d afterany:{(12 << 24) + 8}:13,afterok:12_*")
    assert asked(script)[0]["after"] == {"any": ["12_7", "13"], "success": ["12"]}


def test_a_comment_may_hold_what_is_no_end_of_a_line(here):
    request, script, _ = asked(script_of(here, "# pages\x0cand\u2028paragraphs", "#SBATCH -J behind"))
    assert (request["name"], script.notes) == ("behind", [])


def test_an_array_may_stand_in_brackets(here):
    assert asked(script_of(here, "#SBATCH --array=[1,3-5]%2"))[0]["array"] == "1,3-5%2"


def test_retries_of_the_command_line_are_not_narrowed_by_requeue(here):
    script = script_of(here, "#SBATCH --requeue")
    assert asked(script)[0]["retry_on"] == ["lost"]
    assert "retry_on" not in asked("--retries", "3", script)[0]


def test_a_script_that_asks_for_no_gpu_gets_none_where_it_speaks_to_sbatch_alone(here):
    assert asked(script_of(here, "#SBATCH -t 5"))[0]["demand"] == {"gpus": 0}
    assert asked("--gpu-type", "H100", script_of(here, "#SBATCH -t 5"))[0]["demand"] == {"gpus": 1, "gpu_type": "H100"}
    assert asked(script_of(here, "#GPUCTL -t 5m"))[0]["demand"] == {"gpus": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#SBATCH --time=soon", "job.sbatch, line 2: --time: 'soon' is no time; write MINUTES"),
        ("#SBATCH --array=1-$N", "job.sbatch, line 2: --array: '1-$N' is not an array"),
        ("#SBATCH --gres=gpu:$N", "line 2: --gres"),
        ("#SBATCH --dependency=afterok:JOB", "line 2: --dependency"),
        ("#SBATCH --job-name", "line 2: --job-name needs a value"),
        ("#SBATCH -time=10:00", "job.sbatch, line 2: -time=10:00 is not what it looks like: write --time"),
        ("#SBATCH --signal=LOUD@5", "line 2: --signal: 'LOUD@5' is no signal"),
        ("#GPUCTL --gpu 2 ", "job.sbatch, line 2: No such option"),
        ("#GPUCTL --time-limit soon", "line 2: Invalid value"),
        ("#GPUCTL --json", "line 2: No such option"),
        ("#GPUCTL python", "line 2: Got unexpected extra argument"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(here, line, said):
    with pytest.raises(UsageError) as refused:
        asked(script_of(here, line))
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("12:00:00", 43_200),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-12:30:15", 131_415),
        ("0", None),
        ("UNLIMITED", None),
    ],
)
def test_times_are_read_as_sbatch_reads_them(written, seconds):
    assert values.seconds(written) == seconds


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("now+2hours", "2026-03-01T14:00:00"),
        ("now+90", "2026-03-01T12:01:30"),
        ("16:00", "2026-03-01T16:00:00"),
        ("9:30AM", "2026-03-02T09:30:00"),
        ("midnight", "2026-03-02T00:00:00"),
        ("tomorrow", "2026-03-02T00:00:00"),
        ("2030-01-20", "2030-01-20T00:00:00"),
        ("2030-01-20T12:34:56", "2030-01-20T12:34:56"),
        ("012030", "2030-01-20T00:00:00"),
    ],
)
def test_moments_are_read_as_sbatch_reads_them(written, at):
    noon = datetime.fromisoformat("2026-03-01T12:00:00").astimezone()
    assert (
        datetime.fromtimestamp(values.moment(written, noon.timestamp()), UTC) == datetime.fromisoformat(at).astimezone()
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#SBTACH --gpus=1", "line 2: '#SBTACH --gpus=1' is not read: write #SBATCH"),
        ("#SBACTH --array=0", "write #SBATCH"),
        ("#SBATCh --nodes=1", "write #SBATCH"),
        ("#sbatch -t 5", "write #SBATCH"),
        ("#SBATC -t 5", "write #SBATCH"),
        ("  #SBATCH -t 5", "it does not begin at the start of its line"),
        ("!#SBATCH --signal=USR1@90", "write #SBATCH"),
        ("#GPUCLT -g 2", "write #GPUCTL"),
        ("#PBS -l select=1:ngpus=1", "is not read: gpud does not read #PBS lines"),
        ("#$ -N sge", "is not read: gpud does not read #$ lines"),
        ("##SBATCH --gpus=1", None),
        ("# SBATCH --gpus=1", None),
        ("#batch -- of images", None),
        ("#SBATCH -J a\n#PBS -N b", None),
        ("#SBATCH \u2014time=5", "line 2: '\u2014time=5' begins with another dash than -; left out"),
        ("#SBATCH --begin=2020-01-20", "line 2: --begin=2020-01-20: is past; left out"),
        ("#SBATCH --mem=2G\n#SBATCH --mem-per-cpu=1G", "line 3: --mem-per-cpu=1G: --mem says otherwise; left out"),
        ("#SBATCH --mem-per-gpu=8G", "line 2: --mem-per-gpu=8G: no line asks for GPUs, so there are none"),
        ("#SBATCH --open-mode=append", None),  # it always is
        ("#SBATCH --open-mode=truncate", "line 2: --open-mode=truncate: output is always appended to"),
        ("#SBATCH --propagate\n#SBATCH --kill-on-invalid-dep=no", None),
        ("#SBATCH --propagate=NONE", "line 2: --propagate=NONE: all limits of the shell that submits are the job's"),
        ("#SBATCH --kill-on-invalid-dep=yes", "what can never start is held, or cancelled, as"),
        ("#SBATCH --oom-kill-step", "line 2: --oom-kill-step: means nothing here; left out"),
    ],
)
def test_comments_that_were_to_be_options_are_named(here, line, said):
    path = script_of(here, line, "#end - of all")
    context = submit.make_context("submit", [str(path)])
    notes = submission.asked(context.params, literal=False)[1].notes
    assert [said in note for note in notes] == ([] if said is None else [True])


def test_directories_that_are_not_there_are_named_at_submit(here):
    (here / "run").mkdir()
    (here / "run" / "logs").mkdir()
    lines = "#SBATCH -D run -o logs/%A/%j.out\n#SBATCH -e %x/%j.err\n#SBATCH -J of"
    assert asked(script_of(here, lines))[1].notes == []
    assert asked(script_of(here, "#SBATCH -J a/b -o %x.out -e ~/%j"))[1].notes == []
    notes = asked(script_of(here, "#SBATCH -D gone -o logs/%A/%a.out -J $NAME"))[1].notes
    assert [note.partition(": ")[2].partition(";")[0] for note in notes] == [
        "--chdir=gone: there is no directory gone now",
        "--job-name=$NAME: sbatch sets no variables in #SBATCH lines: it is taken as it stands",
        "--output=logs/%A/%a.out: there is no directory logs now",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("used=$(sstat -n -j $SLURM_JOB_ID -o avecpu)", "line 3: there is no command 'sstat' here"),
        ("sstat -j $SLURM_JOB_ID", "there is no command 'sstat' here"),
        ("sacct -j $SLURM_JOB_ID", None),
        ("srun -n 1 --gpus=1 julia gs.jl", "srun --gpus=1: the job asks for no GPU"),
        ("srun --ntasks=1 --container-image=${IMAGE} bash", "srun --container-image cannot be had here"),
        ("srun --het-group=1 -n 1 true", "srun --het-group cannot be had here"),
        ("srun --het-group=0 -n 1 true", None),
        ("srun \\\n  --container-image=a \\\n  true", "line 3: srun --container-image cannot be had here"),
        ("srun bash -c '\n  echo $SLURM_PROCID\n'", None),
        ("srun bash <<'END'\necho $SLURM_PROCID\nEND", None),
        ("cat <<END\nit's $SLURM_NTASKS\nEND", "line 4: SLURM_NTASKS is set"),
        ("cat <<END\nnow srun --container-image=a\nEND", None),
        ("echo it\\'s $SLURM_NTASKS # don't", "line 3: SLURM_NTASKS is set"),
        ("mpirun -np $((SLURM_NTASKS-1)) a", "for the script, too: submit -e SLURM_NTASKS=1"),
        ("srun torchrun --node_rank=$SLURM_PROCID", "for the script, too: submit -e SLURM_PROCID=0"),
        ("parallel -j $SLURM_NTASKS srun -n1 a {} ::: 1 2", "line 3: SLURM_NTASKS is set"),
        ('srun -N1 -n "${SLURM_NTASKS}" a $((${SLURM_NTASKS:-1}*2))', None),
        ("echo $SLURM_NPROCS", None),
        ("echo ${SLURM_NTASKS:?is not set}", "line 3: SLURM_NTASKS is set for what srun starts alone"),
        ("x=`scontrol show partition`", "gpud's scontrol cannot do this: scontrol show partition"),
        ("remora ibrun ./a.out", "there is no command 'ibrun' here"),
        ("echo ask squeue # sacct", None),
        ("# squeue -u me", None),
        (
            'export CUDA_VISIBLE_DEVICES="0,1"',
            "line 3: CUDA_VISIBLE_DEVICES=0,1 may be GPUs of other jobs: this one asks for none",
        ),
        (
            "CUDA_VISIBLE_DEVICES=$SLURM_ARRAY_TASK_ID a",
            "line 3: CUDA_VISIBLE_DEVICES=$SLURM_ARRAY_TASK_ID may be GPUs of",
        ),
        ("CUDA_VISIBLE_DEVICES= a; CUDA_VISIBLE_DEVICES=$B a # CUDA_VISIBLE_DEVICES=0", None),
    ],
)
def test_what_a_script_calls_and_will_not_find_is_named(here, monkeypatch, command, said):
    monkeypatch.setenv("PATH", "/nowhere")
    notes = asked("-e", "SLURM_NPROCS=1", script_of(here, "#SBATCH -t 5", command))[1].notes
    assert [said in note for note in notes] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("out=$(srun \\\n -n 1 hostname)", "line 2: there is no command 'srun' here: a line #SBATCH --gpus=N below"),
        ("a\nsbatch <<EOF\n#SBATCH -G 1\nEOF", "line 3: there is no command 'sbatch' here: a line #SBATCH below"),
        ("#GPUCTL -g 1\nsrun true", "line 3: there is no command 'srun'"),
        ("a=`scontrol show hostnames`", "line 2: there is no command 'scontrol' here: a line #SBATCH below"),
        ("echo ask srun -h", None),
        ("CUDA_VISIBLE_DEVICES=3 python train.py", "line 2: CUDA_VISIBLE_DEVICES=3 may be GPUs of other jobs"),
        ("export MASTER_PORT=12340; a $MASTER_PORT", "line 2: MASTER_PORT=12340: of two jobs at once that say so"),
        ("torchrun --master_port 29501 a.py", "line 2: --master_port 29501: of two jobs at once that say so one fails"),
        ("docker run --rm \\\n --gpus=all image", "line 2: docker run --gpus all takes those of other jobs, too"),
        ("docker run $GPUD_DOCKER_ARGS image # docker run --gpus all", None),
    ],
)
def test_a_script_without_such_lines_is_told_that_it_has_no_srun(here, monkeypatch, command, said):
    monkeypatch.setenv("PATH", "/nowhere")
    path = script_of(here, command)
    request, script, _ = asked(path)
    assert [said in note for note in script.notes] == ([] if said is None else [True])
    assert (request["demand"], request["script"], "sbatch" in request) == ({"gpus": 1}, path.read_bytes(), False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-t 60", "--time-limit 60 are seconds, where sbatch counts minutes: for those write 60m"),
        ("-n 4", "-n 4 is its name, not a number of tasks: that is a line #SBATCH --ntasks=4 in the script"),
        ("-t 60m -n four", None),
        ("-t 01:00:00", None),
    ],
)
def test_what_is_typed_before_a_script_for_sbatch_and_means_other_things_here_is_named(here, words, said):
    notes = asked(*words.split(), script_of(here, "#SBATCH --time=5"))[1].notes
    assert notes == ([] if said is None else [said])
    request, script, _ = asked(*words.split(), script_of(here, "#GPUCTL --time-limit 5"))
    assert (script.notes, request["demand"]) == ([], {"gpus": 1})


@pytest.mark.parametrize(
    ("feature", "typed"),
    [("a100", "a100"), ("'[tesla_v100|rtx_a6000]'", "'v100|rtx_a6000'"), ("gpu80", None), ("a100&ib", None)],
)
def test_features_that_are_types_of_gpus_are_told_the_option_that_asks_for_these(here, feature, typed):
    (note,) = asked(script_of(here, f"#SBATCH -G 1 -C {feature}"))[1].notes
    assert note.endswith("(see --gpu-type, --node-label)" if typed is None else f"(for such GPUs: --gpu-type {typed})")


def test_only_what_export_names_is_passed_on(here, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.delenv("USER", raising=False)
    everything = asked(script_of(here, "#SBATCH --export=ALL"))[0]["environment"]
    some = asked("-e", "MORE=2", script_of(here, "#SBATCH --export=SEED,LR=0.1"))[0]["environment"]
    nothing = asked(script_of(here, "#SBATCH --export=NONE"))[0]["environment"]
    assert (everything["SECRET"], "SLURM_PROCID" in everything) == ("1", False)
    assert ("SECRET" in some, some["SEED"], some["LR"], some["MORE"]) == (False, "7", "0.1", "2")
    assert ("SEED" in nothing, nothing["HOME"]) == (False, os.environ["HOME"])
    assert everything["USER"] == nothing["USER"] == user()
    assert [nothing[f"SLURM_JOB_{name}"] for name in ("ACCOUNT", "PARTITION", "QOS")] == ["gpud", "gpud", "normal"]


def test_windows_line_ends_do_not_reach_the_job():
    request, script, _ = asked(SHELF / "windows.sbatch")
    assert b"\r" not in request["script"]
    assert "Windows" in script.notes[0]


def test_a_mark_before_the_first_line_does_not_reach_the_job_and_a_blank_line_there_is_told(here):
    path = script_of(here, "#SBATCH -J marked")
    script = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + script)
    assert (asked(path)[0]["script"], asked(path)[0]["name"]) == (script, "marked")
    path.write_bytes(b"\n" + script)
    with pytest.raises(UsageError) as refused:
        asked(path)
    assert refused.value.hint == "write #!/bin/bash as its first line"


def test_a_script_without_such_lines_is_sent_as_it_is(here):
    path = here / "plain.sh"
    path.write_text("#!/bin/sh\necho '  #SBATCH'\n")
    context = submit.make_context("submit", [str(path)])
    request, script = submission.asked(context.params, literal=False)
    assert script is None
    assert "sbatch" not in request
