"""How many users a Locust run has as it goes on: step, spike, soak. Pure."""

STEPS = 5
SPIKE = (0.4, 0.6)  # share of the run in which the spike stands
QUIET = 10  # the users beside the spike are a tenth
RAMP = 0.1  # share of a soak in which it rises
SHAPES = ("step", "spike", "soak")


def users(shape: str, share: float, peak: int) -> int | None:
    """share: of the run that is over; None when the run is. Raises ValueError for no shape."""
    if share >= 1:
        return None
    match shape:
        case "step":
            return max(1, round(peak * (int(share * STEPS) + 1) / STEPS))
        case "spike":
            return peak if SPIKE[0] <= share < SPIKE[1] else max(1, peak // QUIET)
        case "soak":
            return max(1, round(peak * min(1.0, share / RAMP)))
    raise ValueError(f"--shape {shape}: expected one of {', '.join(SHAPES)}")
