"""An item that is too large for what any rank has left waits for one rank, and the others go on."""

from dispatch_bench import Bench, assert_idle, finish, make_item, make_items

from app.dispatch.item import Flow, Item, Owner


def bench(ranks: int = 2, **options: int) -> Bench:
    made = Bench(prefetch=0)
    for rank in range(ranks):
        made.ready(rank, max_num_seqs=16, **options)
    return made


def busy(made: Bench, owner: str = "busy") -> Flow:
    """More items of one sequence than the ranks can run."""
    flow = Flow(0, Owner(owner))
    made.dispatcher.submit(flow, make_items(200, flow, owner=made.owner))
    return flow


def large(made: Bench, n: int = 16, owner: str = "large", **fields: int) -> Item:
    """An item that comes next."""
    flow = Flow(-1, Owner(owner))
    item = make_item(flow, owner=made.owner, n=n, **fields)
    made.dispatcher.submit(flow, [item])
    return item


def answer_some(made: Bench, rank: int, count: int) -> None:
    made.answer(rank, *list(made.held[rank])[:count])


def test_one_rank_is_kept_for_it_and_the_others_go_on() -> None:
    made = bench()
    busy(made)
    item = large(made)
    for _ in range(4):
        answer_some(made, 0, 4)
        answer_some(made, 1, 4)
    assert item.flow.running == {item}, "its rank ran dry for it"
    others = 1 - item.rank
    assert len(made.held[others]) == 16, "that one has always been full"
    assert made.dispatcher.backlog.waiting_of(item.flow.owner).items == 0
    finish(made)
    assert_idle(made, max_num_seqs=16)


def test_what_any_rank_has_soon_room_for_waits_its_turn() -> None:
    """A rank that has ended two of its sequences gets it, whichever comes first."""
    made = Bench(prefetch=0)
    for rank in range(2):
        made.ready(rank, max_num_seqs=64)
    flow = Flow(0, Owner("busy"))
    made.dispatcher.submit(flow, make_items(400, flow, owner=made.owner))
    item = large(made, n=4)
    answer_some(made, 0, 2)
    assert list(made.dispatcher.reservations) == []
    answer_some(made, 0, 2)
    assert item.rank == 0


def test_without_another_rank_it_waits_at_the_head() -> None:
    made = bench(ranks=1)
    busy(made)
    item = large(made)
    answer_some(made, 0, 15)
    assert (len(made.held[0]), item.flow.running) == (1, set())
    answer_some(made, 0, 1)
    assert item.rank == 0


def test_of_two_each_has_a_rank_of_its_own() -> None:
    made = bench(ranks=3)
    busy(made)
    items = [large(made, owner="one"), large(made, owner="two")]
    for _ in range(8):
        for rank in range(3):
            answer_some(made, rank, 2)
    assert sorted({item.rank for item in items}) == sorted(item.rank for item in items)
    assert all(item.flow.running for item in items)
    (free,) = {0, 1, 2} - {item.rank for item in items}
    assert len(made.held[free]) == 16


def test_one_that_the_cache_does_not_hold_beside_others_is_large() -> None:
    made = bench(kv_cache_tokens=1000)
    busy(made)
    item = large(made, n=1, max_tokens=900)
    answer_some(made, 0, 1)
    answer_some(made, 1, 1)
    assert list(made.dispatcher.reservations) == [item]


def kept(made: Bench) -> tuple[Item, int]:
    """A large item that waits for a rank, which is this one."""
    busy(made)
    item = large(made)
    answer_some(made, 0, 1)
    answer_some(made, 1, 1)
    assert list(made.dispatcher.reservations) == [item]
    return item, min((0, 1), key=lambda rank: len(made.held[rank]))


def test_when_its_rank_is_lost_it_goes_elsewhere() -> None:
    made = bench()
    item, rank = kept(made)
    made.lose(rank)
    assert made.dispatcher.backlog.waiting_of(item.flow.owner).items == 1
    while not item.flow.running:
        answer_some(made, 1 - rank, 4)
    assert item.rank == 1 - rank


def test_when_its_rank_is_drained_it_goes_elsewhere() -> None:
    made = bench()
    item, rank = kept(made)
    made.dispatcher.group_draining(rank)
    while not item.flow.running:
        answer_some(made, 1 - rank, 4)
    assert item.rank == 1 - rank


def test_one_that_nobody_wants_any_more_frees_its_rank() -> None:
    made = bench()
    item, rank = kept(made)
    made.dispatcher.cancel(item.flow)
    assert list(made.dispatcher.reservations) == []
    assert len(made.held[rank]) == 16
    assert item not in made.owner.results


def test_one_whose_batch_is_held_back_frees_its_rank_until_it_is_let_go() -> None:
    made = bench()
    item, rank = kept(made)
    made.dispatcher.hold_back(item.flow)
    answer_some(made, rank, 1)
    assert len(made.held[rank]) == 16
    made.dispatcher.let_go(item.flow)
    finish(made)
    assert item in made.owner.results
    assert_idle(made, max_num_seqs=16)


def test_somebody_who_waits_is_not_behind_it() -> None:
    made = Bench(prefetch=0, online_share=0.25)
    for rank in range(2):
        made.ready(rank, max_num_seqs=16)
    _, rank = kept(made)
    chat = Flow(0, Owner("chats"), is_online=True)
    made.dispatcher.submit(chat, [make_item(chat, owner=made.owner)])
    (running,) = chat.running
    assert running.rank == 1 - rank
