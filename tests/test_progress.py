"""Bars on a terminal."""

from rich.progress import Progress

from petlbench.progress import TimeLeft


def test_the_time_left_counts_all_steps_of_this_start() -> None:
    """Also slow ones, and none of an earlier start."""
    now_s = 0.0
    shown = Progress(auto_refresh=False, get_time=lambda: now_s)
    shown.add_task("runs", total=10, completed=4, first=4)
    [task] = shown.tasks
    texts = [str(TimeLeft().render(task))]
    for _ in range(2):
        now_s += 100
        shown.advance(task.id)
        texts.append(str(TimeLeft().render(task)))
    assert texts == ["-:--:--", "0:08:20", "0:06:40"]
