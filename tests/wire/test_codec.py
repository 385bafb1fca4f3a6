import tracemalloc

import msgpack
import pytest
from hypothesis import given, strategies as st

from gpud.wire.codec import FRAME_MAX, ITEMS_MAX, FrameError, Frames, pack, unpack

names = st.text(st.characters(codec="utf-8")) | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | names | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
messages = st.dictionaries(names, values, max_size=5)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message):
    assert unpack(pack(message)[4:]) == message


@given(st.lists(messages, max_size=5), st.data())
def test_messages_come_whole_and_in_order_however_the_stream_is_cut(said, data):
    stream = b"".join(map(pack, said))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames = Frames()

    heard = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        heard += frames.feed(stream[start:end])

    assert heard == said
    assert frames.partial == 0


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_frame_error(garbage):
    frames = Frames()
    try:
        heard = frames.feed(garbage)
    except FrameError as error:
        heard = error.before
    assert all(type(message) is dict for message in heard)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "not a msgpack message"),
        (msgpack.packb([1, 2]), "not a msgpack map"),
        (msgpack.packb({}) + b"\x01", "not a msgpack message"),
        (b"\x91" * 5000, "not a msgpack message: StackError"),
        (b"\x81\x91\x01\x01", "not a msgpack message"),
        (b"\xdf\xff\xff\xff\xff", "not a msgpack message"),
    ],
)
def test_what_is_not_one_map_is_refused(payload, complaint):
    with pytest.raises(FrameError, match=complaint):
        unpack(payload)


def test_a_frame_that_claims_too_much_is_refused_before_it_comes():
    with pytest.raises(FrameError, match=f"at most {FRAME_MAX} are read"):
        Frames().feed((FRAME_MAX + 1).to_bytes(4, "big"))


def test_a_first_frame_may_have_its_own_limit():
    frames = Frames(first_limit=100)
    assert frames.feed(pack({"hello": 1}) + pack({"script": bytes(1000)})) == [{"hello": 1}, {"script": bytes(1000)}]
    with pytest.raises(FrameError, match="at most 100 are read"):
        Frames(first_limit=100).feed((101).to_bytes(4, "big"))


def _list_of(count: int, items: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items


@pytest.mark.parametrize(
    "payload",
    [
        _list_of(16_000_000, b"\x90" * 16_000_000),  # 1.1 GB as Python's lists
        _list_of(ITEMS_MAX, (b"\xdc\xff\xff" + b"\xc0" * 65_535) * 240),
        _list_of(ITEMS_MAX, b"") * 1000 + b"\xc0" * ITEMS_MAX,
        b"\x81\xa1a" + b"\xdf" + ITEMS_MAX.to_bytes(4, "big") + b"\xa1a\xc0" * ITEMS_MAX,
    ],
    ids=["flat", "wide", "deep", "repeated keys"],
)
def test_a_frame_costs_no_more_to_parse_than_a_bounded_number_of_items(payload):
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=f"more than {ITEMS_MAX} items|exceeds max_|incomplete"):
            unpack(payload, ITEMS_MAX)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_longest_command_line_is_no_hostile_frame():
    message = {"command": ["python", *(f"{number}.jpg" for number in range(120_000))]}
    assert unpack(pack(message)[4:], ITEMS_MAX) == message


def test_a_message_that_no_peer_would_read_is_not_packed():
    with pytest.raises(FrameError, match="a message of 17 MiB; at most 16 MiB"):
        pack({"script": bytes(17 << 20)})


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_a_number_that_does_not_travel_is_said_to_be_too_large(number):
    with pytest.raises(FrameError, match="a number of more than 64 bits"):
        pack({"demand": {"gpus": number}})


def test_what_was_said_before_the_broken_frame_counts():
    with pytest.raises(FrameError) as broken:
        Frames().feed(pack({"id": 1}) + pack({"id": 2}) + b"\xff\xff\xff\xff")

    assert broken.value.before == [{"id": 1}, {"id": 2}]
