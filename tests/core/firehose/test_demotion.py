"""What being too slow costs a subscriber."""

from __future__ import annotations

from common.core.firehose.demotion import DemotionHistory, DemotionRule, SubscriberTier

RULE = DemotionRule(first_s=1, most_s=8, forgiven_after_s=60)


def demoted(record: DemotionHistory, now_s: float) -> float:
    record.joined(now_s)
    record.fell_out(now_s)
    return record.stays_s


def test_the_first_demotion_costs_nothing_and_repeated_ones_double_up_to_the_most() -> None:
    record, now_s, stays = DemotionHistory(RULE), 100.0, []
    for _ in range(7):
        stays.append(demoted(record, now_s))
        assert record.standing is SubscriberTier.DEMOTED
        assert not record.may_join(now_s + stays[-1] - 0.1)
        now_s += stays[-1]
        assert record.may_join(now_s)

    assert stays == [0, 1, 2, 4, 8, 8, 8]
    assert record.demotions == 7


def test_a_while_at_the_tail_is_forgiveness() -> None:
    record = DemotionHistory(RULE)
    demoted(record, 0)
    assert demoted(record, 10) == 1
    record.joined(20)
    record.fell_out(80)

    assert record.stays_s == 0


def test_who_is_sent_back_through_no_fault_is_not_demoted() -> None:
    record = DemotionHistory(RULE)
    record.joined(0)
    record.sent_back()

    assert record.standing is SubscriberTier.CATCHING_UP
    assert record.may_join(0)
    assert record.demotions == 0


def test_being_sent_back_does_not_wash_off_a_demotion() -> None:
    record = DemotionHistory(RULE)
    demoted(record, 0)
    record.sent_back()

    assert record.standing is SubscriberTier.DEMOTED
