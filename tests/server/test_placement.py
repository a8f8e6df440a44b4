"""Which device each instance gets: tables of groups and machines, none of which needs a GPU."""

from functools import reduce

import pytest

from headrace.server.errors import ModelLoadError
from headrace.server.placement import (
    CPU,
    OWN_CHOICE,
    Device,
    GpuUse,
    Group,
    Kind,
    Placement,
    Plan,
    count,
    place,
    take,
    threads_each,
    to_groups,
)

GIB = 1 << 30


def gpu(index: int, free_gib: int = 40, ordinal: int | None = -1) -> Device:
    number = index if ordinal == -1 else ordinal
    return Device(index, f"GPU-{index}", "Test", 80 * GIB, free_gib * GIB, number)


def mig(index: int, free_gib: int = 10, ordinal: int | None = None) -> Device:
    return Device(index, f"MIG-{index}", "1g.10gb", 10 * GIB, free_gib * GIB, ordinal, "GPU-a")


ONE, TWO = [gpu(0)], [gpu(0), gpu(1)]
SLICES = [mig(0, ordinal=0), mig(1), mig(2)]


def indices(plan: Plan) -> list[int]:
    return [each.device.index for each in plan.placements]


def of(kind: Kind, count: int = 1, *gpus: int, name: str = "") -> Group:
    return Group(name, count, kind, gpus)


@pytest.mark.parametrize(
    ("groups", "devices", "use", "placed"),
    [
        pytest.param([Group()], [], GpuUse.AUTO, [-1], id="no GPU: on the CPU"),
        pytest.param([Group()], ONE, GpuUse.AUTO, [0], id="AUTO takes the GPU"),
        pytest.param([Group()], TWO, GpuUse.AUTO, [0, 1], id="AUTO: one on each GPU, as Triton"),
        pytest.param([Group()], ONE, GpuUse.NEVER, [-1], id="AUTO of a CPU framework"),
        pytest.param([Group()], ONE, GpuUse.ASKED, [-1], id="AUTO of code that did not ask"),
        pytest.param([of(Kind.GPU)], ONE, GpuUse.ASKED, [0], id="KIND_GPU of code asks"),
        pytest.param([of(Kind.GPU, 2)], TWO, GpuUse.AUTO, [0, 0, 1, 1], id="count is per GPU"),
        pytest.param([of(Kind.GPU, 2, 1)], TWO, GpuUse.AUTO, [1, 1], id="only the named GPU"),
        pytest.param([of(Kind.GPU, 1, 1, 0)], TWO, GpuUse.AUTO, [1, 0], id="in the named order"),
        pytest.param([of(Kind.GPU, 1, 0, 0)], TWO, GpuUse.AUTO, [0], id="a GPU named twice is one"),
        pytest.param([of(Kind.AUTO, 2, 1)], TWO, GpuUse.AUTO, [1, 1], id="AUTO obeys gpus too"),
        pytest.param([of(Kind.CPU, 3)], TWO, GpuUse.AUTO, [-1, -1, -1], id="KIND_CPU: in all"),
        pytest.param([of(Kind.MODEL, 2)], TWO, GpuUse.NEVER, [-2, -2], id="KIND_MODEL: its choice"),
        pytest.param(
            [of(Kind.GPU, 1, 0), of(Kind.CPU, 2)],
            TWO,
            GpuUse.AUTO,
            [0, -1, -1],
            id="several groups add up",
        ),
        pytest.param([of(Kind.GPU)], SLICES[:1], GpuUse.AUTO, [0], id="a MIG slice is a device"),
        pytest.param([Group()], SLICES, GpuUse.AUTO, [0], id="one slice in the server's process"),
    ],
)
def test_place(groups: list[Group], devices: list[Device], use: GpuUse, placed: list[int]) -> None:
    assert indices(place(groups, devices, use)) == placed


@pytest.mark.parametrize(
    ("group", "placed"),
    [
        pytest.param(of(Kind.GPU), [0, 1, 2], id="every slice"),
        pytest.param(of(Kind.GPU, 2, 2), [2, 2], id="the named slice"),
        pytest.param(Group(count=4, is_spread=True), [0, 1, 2, 0], id="spread over slices"),
    ],
)
def test_processes_reach_every_slice(group: Group, placed: list[int]) -> None:
    assert indices(place([group], SLICES, has_processes=True)) == placed


@pytest.mark.parametrize(
    ("count", "devices", "need_gib", "placed"),
    [
        pytest.param(1, [gpu(0, 10), gpu(1, 30)], 0, [1], id="the freest"),
        pytest.param(4, TWO, 0, [0, 1, 0, 1], id="of equals the one with fewest"),
        pytest.param(3, [gpu(0, 30), gpu(1, 12)], 10, [0, 0, 1], id="by what is left"),
        pytest.param(2, [gpu(0, 5), gpu(1, 40)], 20, [1, 1], id="not where there is no room"),
        pytest.param(2, [gpu(0, 5), gpu(1, 30)], 20, [-1, -1], id="no room for all: on the CPU"),
        pytest.param(2, [], 20, [-1, -1], id="no GPU: on the CPU"),
        pytest.param(2, [mig(0, 9, ordinal=0)], 4, [0, 0], id="on one slice"),
    ],
)
def test_instances_spread_by_free_memory(
    count: int, devices: list[Device], need_gib: int, placed: list[int]
) -> None:
    group = Group(count=count, is_spread=True)
    assert indices(place([group], devices, need_bytes=need_gib * GIB)) == placed


def test_several_models_share_what_is_free() -> None:
    needs = {"a": 30, "b": 25, "c": 12, "d": 20}
    left, placed = [gpu(0, 40), gpu(1, 40)], {}
    for name, need_gib in needs.items():
        plan = place([Group(is_spread=True)], left, need_bytes=need_gib * GIB)
        left = take(left, [each.device for each in plan.placements], need_gib * GIB)
        placed[name] = indices(plan)
    assert placed == {"a": [0], "b": [1], "c": [1], "d": [-1]}  # 10 and 3 GiB are left for d
    assert [each.free_bytes // GIB for each in left] == [10, 3]


def test_what_is_taken_never_goes_below_nothing() -> None:
    left = reduce(lambda devices, _: take(devices, [gpu(0)], 30 * GIB), range(3), ONE)
    assert [each.free_bytes for each in left] == [0]


def test_a_driver_that_tells_no_memory_refuses_nothing() -> None:
    unknown = [Device(0, "GPU-0", "Unified", ordinal=0)]
    assert indices(place([of(Kind.GPU, 2)], unknown, need_bytes=GIB)) == [0, 0]


@pytest.mark.parametrize(
    ("groups", "devices", "use", "said"),
    [
        pytest.param(
            [of(Kind.GPU, 1, 3, name="x")],
            TWO,
            GpuUse.AUTO,
            "instance_group 'x': gpus [3], but this machine has GPUs 0-1; "
            "name one of these, or use KIND_CPU or KIND_AUTO",
            id="a GPU that is not there",
        ),
        pytest.param(
            [of(Kind.GPU, 1, 0, -2, 7)],
            ONE,
            GpuUse.AUTO,
            "instance_group: gpus [-2, 7], but this machine has GPU 0; "
            "name one of these, or use KIND_CPU or KIND_AUTO",
            id="several that are not there",
        ),
        pytest.param(
            [of(Kind.GPU)],
            [],
            GpuUse.AUTO,
            "instance_group: kind KIND_GPU, but no GPU is visible here; use KIND_CPU or KIND_AUTO",
            id="no GPU at all",
        ),
        pytest.param(
            [of(Kind.GPU)],
            ONE,
            GpuUse.NEVER,
            "instance_group: kind KIND_GPU, but this framework runs on the CPU only; use KIND_CPU",
            id="a framework without GPUs",
        ),
        pytest.param(
            [of(Kind.GPU, 1, 1)],
            SLICES,
            GpuUse.AUTO,
            "instance_group: GPU 1 (1g.10gb MIG-1) cannot be reached from the server's own "
            "process, which CUDA shows one MIG slice at most; start with --isolation process",
            id="a slice CUDA does not show",
        ),
        pytest.param(
            [of(Kind.GPU, 2)],
            [gpu(0, 15)],
            GpuUse.AUTO,
            "instance_group: GPU 0 (Test GPU-0) has 16106127360 bytes free of 85899345920, "
            "and about 21474836480 are needed",
            id="no room for both",
        ),
        pytest.param(
            [Group("a", is_passive=True), Group("b", is_passive=True)],
            ONE,
            GpuUse.AUTO,
            "instance_group: every group is passive, so no instance would answer",
            id="only passive groups",
        ),
    ],
)
def test_what_cannot_be_had(
    groups: list[Group], devices: list[Device], use: GpuUse, said: str
) -> None:
    with pytest.raises(ModelLoadError) as refused:
        place(groups, devices, use, need_bytes=10 * GIB)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("group", "devices", "note"),
    [
        pytest.param(
            of(Kind.AUTO, 1, 0),
            [],
            "instance_group: gpus [0], but no GPU is visible: on the CPU",
            id="a GPU was named, none is there",
        ),
        pytest.param(
            of(Kind.AUTO, 1, 4),
            ONE,
            "instance_group: gpus [4], but this machine has GPU 0; name one of these, or use "
            "KIND_CPU or KIND_AUTO: on the CPU, as KIND_AUTO allows",
            id="another GPU was named",
        ),
        pytest.param(
            Group(is_spread=True),
            [gpu(0, 1)],
            "instance_group: GPU 0 (Test GPU-0) has 1073741824 bytes free of 85899345920, and "
            "about 10737418240 are needed: on the CPU, as KIND_AUTO allows",
            id="the GPU is full",
        ),
    ],
)
def test_auto_falls_back_and_says_why(group: Group, devices: list[Device], note: str) -> None:
    plan = place([group], devices, need_bytes=10 * GIB)
    assert (indices(plan), plan.notes) == ([-1], (note,))


def test_slices_left_out_are_told() -> None:
    (note,) = place([of(Kind.GPU)], SLICES).notes
    assert note.startswith("instance_group: GPU 1 (1g.10gb MIG-1), GPU 2 (1g.10gb MIG-2) cannot")


def test_a_plain_cpu_machine_has_nothing_to_tell() -> None:
    assert place([Group(is_spread=True)], []) == Plan((Placement(CPU),))


def test_passive_instances_are_marked() -> None:
    plan = place([of(Kind.CPU), Group("spare", 2, Kind.CPU, is_passive=True)], [])
    assert [each.is_passive for each in plan.placements] == [False, True, True]


@pytest.mark.parametrize(
    ("placement", "name"),
    [
        (Placement(CPU), "cpu"),
        (Placement(gpu(2, ordinal=1)), "cuda:1"),
        (place([of(Kind.MODEL)], []).placements[0], ""),
    ],
)
def test_the_name_torch_knows(placement: Placement, name: str) -> None:
    assert placement.torch_name == name


@pytest.mark.parametrize(
    ("groups", "gpus", "instances"),
    [
        pytest.param([Group(count=3, is_spread=True)], 4, 3, id="--instances is of all"),
        pytest.param([of(Kind.GPU, 2)], 4, 8, id="per GPU"),
        pytest.param([of(Kind.GPU, 2, 0, 1)], 4, 4, id="per named GPU"),
        pytest.param([of(Kind.AUTO, 2)], 0, 2, id="without a GPU"),
        pytest.param([of(Kind.CPU, 2), of(Kind.CPU, 3)], 4, 5, id="groups add up"),
        pytest.param(
            [of(Kind.CPU), Group(count=9, is_passive=True)], 0, 1, id="passive ones do not run"
        ),
        pytest.param([], 0, 1, id="nothing said is one"),
    ],
)
def test_how_many_instances_run(groups: list[Group], gpus: int, instances: int) -> None:
    assert count(groups, gpus) == instances


@pytest.mark.parametrize(
    ("cpus", "workers", "instances", "threads"),
    [(8, 1, 1, 8), (8, 2, 2, 2), (8, 1, 3, 2), (2, 4, 4, 1), (64, 4, 4, 4)],
)
def test_threads_are_promised_once(cpus: int, workers: int, instances: int, threads: int) -> None:
    assert threads_each(cpus, workers, instances) == threads
    assert threads * workers * instances <= max(cpus, workers * instances)


def test_instances_are_told_as_an_instance_group() -> None:
    gpu = Device(1, name="GPU", ordinal=1)
    placements = [
        *[Placement()] * 3,
        Placement(is_passive=True),
        *[Placement(gpu)] * 2,
        Placement(OWN_CHOICE),
    ]
    assert to_groups("m", placements) == [
        {"name": "m_0", "kind": "KIND_CPU", "count": 3, "gpus": []},
        {"name": "m_1", "kind": "KIND_CPU", "count": 1, "gpus": [], "passive": True},
        {"name": "m_2", "kind": "KIND_GPU", "count": 2, "gpus": [1]},
        {"name": "m_3", "kind": "KIND_MODEL", "count": 1, "gpus": []},
    ]
