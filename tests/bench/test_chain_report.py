"""What the benchmark of the chain makes of its figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.bench.chain.memory import Memory, Sample
from tests.bench.chain.plot import plot
from tests.bench.chain.profile import read
from tests.bench.chain.report import facts, write
from tests.bench.chain.rounds import CELLS, Result, Round
from tests.bench.chain.servers import SERVERS
from tests.bench.chain.statistic import interval, ratio


def result_of(cell="one-core"):
    rounds = {
        name: [Round(100.0 * number + drift, 10.0, 1.0, 100, 0, 1.0, 2.0) for drift in range(7)]
        for number, name in enumerate(SERVERS, 1)
    }
    return Result(CELLS[cell], rounds, dict.fromkeys(SERVERS, 0.0))


@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3)])
def test_an_interval_leaves_out_as_many_values_as_95_per_cent_allow(rounds, left_out):
    found, coverage = interval(rounds)

    assert found == left_out
    assert rounds < 6 or coverage >= 0.95


def test_a_ratio_is_the_median_of_those_within_the_rounds():
    found = ratio([1.0, 20.0, 300.0], [1.0, 10.0, 100.0])

    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)


def test_a_result_is_written_as_json_tables_and_a_picture(tmp_path):
    text = write(tmp_path, {"one-core": result_of()}, facts({"rounds": 7, "seconds": 1, "seed": 1}))

    assert {path.name for path in tmp_path.iterdir()} == {"chain.json", "chain.md", "chain.svg"}
    assert all(server.title in text for server in SERVERS.values())
    assert "observed alike" in text


def test_the_picture_has_a_dot_for_each_server():
    root = ET.fromstring(plot({"one-core": result_of()}))

    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == len(SERVERS)


@pytest.mark.parametrize("run", ["run", "Runner.run"])
def test_a_profile_tells_what_is_below_python_from_functions_and_leaves_other_threads_out(run):
    loop = f"thread (1): MainThread;<module> (a.py:1);{run} (asyncio/runners.py:118)"
    found = read(
        [f"{loop} 6", f"{loop};answer (apibase/rpc.py:7);inc (apibase/x.py:1) 4", "thread (2): T;wait (t.py:1) 9"]
    )

    assert found.samples == 10
    assert found.own["inc (apibase/x.py)"] == 4
    assert found.within["answer (apibase/rpc.py)"] == 4
    assert "below Python" in found.own.most_common(1)[0][0]
    assert "| apibase | 40.0% |" in found.by_package()


def test_memory_that_grows_only_at_first_is_level():
    samples = [Sample(0, 10), *(Sample(number * 10, min(number, 4) * 100) for number in range(1, 21))]

    assert Memory(tuple(samples), 0).growth == 0
