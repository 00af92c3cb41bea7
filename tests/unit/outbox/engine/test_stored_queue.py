"""The pending events of one device, compared with a list."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st
from relay.outbox.engine.stored_queue import StoredQueue

KEY = (1, "tv", "tv-1")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3_000)),
        st.tuples(st.just("front"), st.integers(0, 2_500)),
        st.tuples(st.just("middle"), st.tuples(st.integers(0, 50), st.integers(0, 50))),
        st.tuples(st.just("seq"), st.integers(0, 400)),
    ),
    max_size=30,
)


@given(STEPS)
def test_stored_queue_behaves_as_a_list_of_seqs_and_sizes(steps: list[tuple[str, object]]) -> None:
    queue, model, seq = StoredQueue(KEY), [], 0
    for what, value in steps:
        match what, value:
            case "append", int(count):
                for _ in range(count):
                    seq += 2
                    queue.append(seq, seq % 97)
                    model.append((seq, seq % 97))
            case "front", int(count):
                count = min(count, len(model))
                queue.remove(0, count)
                del model[:count]
            case "middle", (int(start), int(count)):
                start = min(start, len(model))
                count = min(count, len(model) - start)
                queue.remove(start, count)
                del model[start : start + count]
            case "seq", int(wanted):
                assert queue.remove_seq(wanted) == any(each == wanted for each, _ in model)
                model = [each for each in model if each[0] != wanted]
    assert list(zip(queue.seqs(len(model) + 9), queue.sizes(len(model) + 9), strict=True)) == model
    assert len(queue) == len(model)
    assert queue.body_bytes == sum(size for _, size in model)
    assert queue.first_seq == (model[0][0] if model else None)
    for probe in (0, 1, seq // 2, seq, seq + 1):
        assert (probe in queue) == any(each == probe for each, _ in model)
        assert queue.count_to(probe) == sum(each <= probe for each, _ in model)


class Unscanned(array):
    """An array that may be bisected, and not searched from its beginning."""

    def __contains__(self, seq: object) -> bool:
        raise AssertionError("an array of a million seqs would be scanned")


def test_a_quarantined_event_is_found_without_a_scan() -> None:
    queue = StoredQueue(KEY)
    assert not queue.is_quarantined(3)
    queue.quarantine(Unscanned("Q", [3, 5, 9]))

    assert [seq for seq in range(12) if queue.is_quarantined(seq)] == [3, 5, 9]
    assert 3 not in queue
