"""Whether a campaign is complete, and the alert that says that it is not."""

import pytest
from attrs import evolve

from handlers.campaign import completed, settled
from handlers.completion import alert_of, discrepancy, put_off
from schemas.campaign import CampaignStatus, Counts, MessageCounts
from schemas.channel import Alert, AlertKind
from tests.builders import HOUR, NOW, campaign

ONE = Counts(by_status={"completed": 1})
OPEN = "1 conversations are open, and none of them is due"
FAILED = {"status": CampaignStatus.FAILED}
SINCE = {"discrepancy_at": NOW - HOUR}


def rejected(count):
    """Give the counts of a campaign with so many rejected recipients."""
    return {"counts": Counts(recipients=2, rejected=count)}


@pytest.mark.parametrize(
    ("given", "counts", "why"),
    [
        pytest.param({}, ONE, None, id="all are there"),
        pytest.param({"recipient_count": 2} | rejected(1), ONE, None, id="one was rejected"),
        pytest.param(
            {"recipient_count": 2},
            ONE,
            "2 recipients, but 0 rejected and 1 conversations",
            id="one is missing",
        ),
        pytest.param(
            rejected(1), ONE, "1 recipients, but 1 rejected and 1 conversations", id="both"
        ),
        pytest.param({}, Counts(open=1, by_status={"pending": 1}), OPEN, id="one is open"),
        pytest.param({"recipient_count": 2} | FAILED, ONE, None, id="failed before all was opened"),
        pytest.param(FAILED, Counts(open=1, by_status={"pending": 1}), OPEN, id="failed, and open"),
    ],
)
def test_discrepancy(given, counts, why):
    """Rejected recipients and conversations are all there are, and none is open."""
    assert discrepancy(campaign(**given), counts) == why


def test_put_off():
    """It stays as it is, but for since when; however often it is put off."""
    given = settled(campaign(), NOW)
    assert put_off(given, NOW) == evolve(given, discrepancy_at=NOW)
    again = put_off(evolve(given, **SINCE), NOW)
    assert again.discrepancy_at == NOW - HOUR
    assert completed(again, ONE, MessageCounts(), NOW, NOW).discrepancy_at is None


def test_alert():
    """One for each discrepancy, about the campaign; none without one."""
    assert alert_of(campaign(), "why") is None
    made = campaign(**SINCE)
    assert alert_of(made, "why", NOW) == Alert(
        id=f"campaign_discrepancy/{made.id}/2026-11-23T08:00:00.000+00:00",
        kind=AlertKind.CAMPAIGN_DISCREPANCY,
        campaign_id=made.id,
        reason="why",
        at=NOW - HOUR,
        resolved_at=NOW,
    )
