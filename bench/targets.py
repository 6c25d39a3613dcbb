"""What the figures ought to be: the parts' names for them, and how much is enough."""

from bench import fairness, fleet, idle, opening, reaction, scale, throughput, timers
from bench.figures import Target
from bench.sizes import PARKED

TARGETS = (
    Target(figure=reaction.REPLY, at="p50", beside=reaction.RAW, most=2),
    Target(figure=reaction.REPLY, at="p99", beside=reaction.RAW, most=3),
    Target(figure=reaction.REQUEST, at="p50", beside=reaction.RAW, most=3),
    Target(figure=reaction.REQUEST, at="p99", beside=reaction.RAW, most=4),
    Target(figure=timers.LAG, at="p99", most=100),
    *(
        Target(figure=scale.ratio(parked), at="p50", most=1.2)
        for parked in PARKED
        if parked > min(PARKED)
    ),
    *(Target(figure=scale.memory_of(parked), at="max", most=200) for parked in PARKED),
    *(Target(figure=scale.growth_of(parked), at="max", most=1.1) for parked in PARKED),
    Target(figure=opening.MEMORY, at="max", most=200),
    Target(figure=opening.GROWTH, at="max", most=1.1),
    Target(figure=fairness.WHILE_OPENED, at="p99", most=250),
    Target(figure=fairness.WHILE_SENT, at="p99", most=250),
    Target(figure=idle.SHARE, at="p50", most=1),
    *(Target(figure=fleet.ratio(pair), at="p50", least=1) for pair in fleet.PAIRS),
    *(Target(figure=fleet.in_vain(workers), at="p50", most=2) for workers in fleet.FLEETS),
    *(Target(figure=ratio, at="p50", least=least) for ratio, least in throughput.LEAST.items()),
)
