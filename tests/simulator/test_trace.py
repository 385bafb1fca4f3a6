"""What traces and clusters are read as, and what is said of those that are none."""

import re

import pytest
from replaying import written

from gpud.simulator.cluster import per_node, read_cluster
from gpud.simulator.trace import TraceError, read_trace


def test_a_trace_says_what_each_job_wants(tmp_path):
    columns = (
        "job_id,submit_s,duration_s,gpus,gpu_mem_gb,cpus,user,tenant,name,gpu_type,priority,estimate_s,mem_gb,other"
    )
    rows = [
        ("b", 5, 60, "0.46", "", 3.152, "ada", "vision", "train-7", "A10|T4", 3, 90, 2, "x"),
        ("a", 1, 10, 24, 20, "", "", "", "", "", "", "", "", ""),
    ]
    first, second = read_trace(written(tmp_path / "t.csv", *rows, columns=columns), per_node=8).jobs

    assert (first.submit_s, first.terms.demand.gpus, first.terms.demand.nodes) == (1, 24, 3)
    assert (first.terms.demand.gpu_memory_mib, first.terms.user, first.terms.tenant) == (20 * 1024, "nobody", "default")
    demand = second.terms.demand
    assert (demand.gpus, demand.share_permille, demand.cpus, demand.memory_mib) == (1, 460, 3152, 2048)
    assert (demand.gpu_type, second.priority, second.terms.estimate_s, second.terms.name_group) == (
        "A10|T4",
        3,
        90,
        "train-#",
    )


def test_a_swf_file_counts_processors_as_gpus_and_leaves_out_what_never_ran(tmp_path):
    place = tmp_path / "t.swf"
    place.write_text(
        "; Version: 2.2\n1 10 5 100 4 -1 -1 8 600 -1 1 3 2 9 1 1 -1 -1\n2 20 5 -1 4 -1 -1 8 600 -1 5 3 2 9 1 1 -1 -1\n"
    )
    trace = read_trace(str(place), per_node=8)

    (job,) = trace.jobs
    assert (job.submit_s, job.duration_s, job.terms.demand.gpus, job.terms.estimate_s) == (10, 100, 8, 600)
    assert (job.terms.user, job.terms.tenant, trace.skipped) == ("user3", "group2", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.csv, line 1: no column submit_s"),
        ("submit_s,gpus\n", "t.csv, line 1: no column duration_s"),
        ("submit_s,duration_s,gpus\n", "t.csv holds no job"),
        ("submit_s,duration_s,gpus\n1,2,1\n1,2\n", "t.csv, line 3: 2 columns, expected 3 as in its header"),
        (
            "submit_s,duration_s,gpus\n1,2,1\n1,x,1\n",
            "t.csv, line 3, column duration_s: 'x', expected seconds of 0 or more",
        ),
        (
            "submit_s,duration_s,gpus\n,2,1\n",
            "t.csv, line 2, column submit_s: nothing, expected seconds since the trace",
        ),
        ("submit_s,duration_s,gpus\n0,1e99,1\n", "t.csv, line 2, column duration_s: '1e99', expected seconds, 1e"),
        (
            "submit_s,duration_s,gpus\nnoon,2,1\n",
            "t.csv, line 2, column submit_s: 'noon', expected seconds since the trace began$",
        ),
        ("submit_s,duration_s,gpus\n0,nan,1\n", "t.csv, line 2, column duration_s: 'nan', expected seconds"),
        ("submit_s,duration_s,gpus\n0,-1,1\n", "t.csv, line 2, column duration_s: '-1', expected seconds"),
        ("submit_s,gpus,duration_s,gpus\n0,1,1,1\n", "t.csv, line 1: the column gpus stands there twice"),
        ("\x00\x1b[31m\x07,gpus\n0,1\n", "t.csv is not text"),
        ("submit_s,duration_s,gpus\n1_000,1,1\n", "t.csv, line 2, column submit_s: '1_000', expected seconds"),
        ("submit_s,duration_s,gpus\n0,\u0661,1\n", "t.csv, line 2, column duration_s: '\u0661', expected seconds"),
        ("submit_s,duration_s,gpus\n0,1,1.5\n", "t.csv, line 2, column gpus: '1.5', expected whole GPUs, or a part"),
        (
            "submit_s,duration_s,gpus,priority\n0,1,1,1.5\n",
            "t.csv, line 2, column priority: '1.5', expected a whole number$",
        ),
        ("\n,,\nsubmit_s,gpus\n", "t.csv, line 3: no column duration_s"),
        ("\n\nsubmit_s,duration_s,gpus\n1,2\n", "t.csv, line 4: 2 columns, expected 3 as in its header"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said_with_its_place(tmp_path, text, said):
    place = tmp_path / "t.csv"
    place.write_text(text)

    with pytest.raises(TraceError, match="^" + said.replace("(", r"\(")):
        read_trace(str(place), per_node=8)


def test_a_mark_of_the_byte_order_is_no_part_of_a_column_s_name(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("submit_s,duration_s,gpus\n0,1,1\n", encoding="utf-8-sig")

    assert len(read_trace(str(place), per_node=8).jobs) == 1


@pytest.mark.parametrize("between", [",", "\t", ";"])
def test_columns_may_be_in_capitals_with_what_a_spreadsheet_puts_between(tmp_path, between):
    place = tmp_path / "t.csv"
    place.write_text("Submit_s,DURATION_S,GPUs,User\n0,5,2,Ada\n".replace(",", between))

    (job,) = read_trace(str(place), per_node=8).jobs
    assert (job.duration_s, job.terms.demand.gpus, job.terms.user) == (5, 2, "Ada")


def test_lines_of_nothing_but_spaces_and_commas_are_no_jobs(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("\n,,\nsubmit_s,duration_s,gpus\n\n   \n0,1,1\n,,\n , ,\t\n,,,,,\n")

    (job,) = read_trace(str(place), per_node=8).jobs
    assert job.line == 6


def test_a_line_that_is_not_swf_is_named(tmp_path):
    place = tmp_path / "t.swf"
    place.write_text("; ok\n1 2 3\n")

    with pytest.raises(TraceError, match=r"t\.swf, line 2: 3 fields, expected the 18 of SWF"):
        read_trace(str(place), per_node=8)


@pytest.mark.parametrize(
    ("gpus", "nodes", "rounded_to"),
    [(8, 1, 8), (11, 2, 12), (12, 2, 12), (16, 2, 16), (17, 3, 18), (64, 8, 64), (10**15 - 1, 125 * 10**12, 10**15)],
)
def test_a_gang_takes_the_fewest_nodes_that_hold_it_with_as_many_gpus_on_each(tmp_path, gpus, nodes, rounded_to):
    swf = tmp_path / "t.swf"
    swf.write_text(f"1 10 5 100 4 -1 -1 {gpus} 600 -1 1 3 2 9 1 1 -1 -1\n")
    for path in (written(tmp_path / "t.csv", (0, 10, gpus)), str(swf)):
        trace = read_trace(path, per_node=8)

        demand = trace.jobs[0].terms.demand
        assert (demand.nodes, demand.gpus, trace.rounded) == (nodes, rounded_to, gpus != rounded_to)


@pytest.mark.parametrize(
    ("field", "word", "expected"),
    [
        ("8 (requested processors)", "inf", "a whole number, 1e+15 at most"),
        ("5 (allocated processors)", "0.5", "a whole number"),
        ("12 (user)", "nan", "a whole number"),
        ("2 (submit time)", "nan", "a number"),
        ("2 (submit time)", "-inf", "a number"),
        ("4 (run time)", "nan", "a number"),
        ("4 (run time)", "1e16", "a number, 1e+15 at most"),
        ("9 (requested time)", "1_000", "a number"),
    ],
)
def test_a_number_that_swf_cannot_mean_is_named_with_its_field(tmp_path, field, word, expected):
    words = ["1", "10", "5", "100", "4", "-1", "-1", "8", "600", "-1", "1", "3", "2", "9", "1", "1", "-1", "-1"]
    words[int(field.partition(" ")[0]) - 1] = word
    place = tmp_path / "T.SWF"  # in capitals, from where there is no other way
    place.write_text("; ok\n" + " ".join(words) + "\n")

    said = f"T.SWF, line 2, field {field}: {word!r}, expected {expected}"
    with pytest.raises(TraceError, match=f"^{re.escape(said)}$"):
        read_trace(str(place), per_node=8)


def test_a_cluster_is_a_specification_or_a_file(tmp_path):
    rows = [("a", 8, "V100M32", 96, 384), ("b", 0, "", 32, 64)]
    first, second = read_cluster(written(tmp_path / "n.csv", *rows, columns="node,gpus,gpu_type,cpus,mem_gb"))

    assert (len(first.gpus), first.gpus[0].memory_total_mib, first.cpus, first.memory_mib) == (
        8,
        32_000,
        96_000,
        384 * 1024,
    )
    assert (second.gpus, second.name) == ((), "b")
    assert per_node(read_cluster("2x8xH100,4xL40S")) == 8
    with pytest.raises(TraceError, match=r"n\.csv: the node 'a' stands there twice"):
        read_cluster(written(tmp_path / "n.csv", ("a", 1), ("a", 2), columns="node,gpus"))
    most = r"n\.csv, line 4, column gpus: '[e\d]+', expected 65536 GPUs at most in all"
    for last in ("1", "1e9"):
        with pytest.raises(TraceError, match=most):
            read_cluster(written(tmp_path / "n.csv", ("a", 8), ("b", 65_528), ("c", last), columns="node,gpus"))
    with pytest.raises(TraceError, match="no simulated GPU 'V101'"):
        read_cluster("8x8xV101")
    with pytest.raises(TraceError, match=r"cannot read .*: No such file"):
        read_cluster(str(tmp_path / "missing.csv"))
