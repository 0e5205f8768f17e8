from workers.ray_pool.shared_pause import SharedPause


def test_watchers_share_a_pause() -> None:
    """Those who were not seen for long do not count."""
    pause = SharedPause(10.0)
    assert pause.share_s("a", 2.0, now_s=0.0) == 2.0
    assert pause.share_s("a", 2.0, now_s=2.0) == 2.0
    assert pause.share_s("b", 2.0, now_s=3.0) == 1.0
    assert pause.share_s("a", 2.0, now_s=4.0) == 1.0
    assert pause.share_s("a", 2.0, now_s=13.5) == 2.0
