"""Settings that a process hands on to its children."""

from pathlib import Path

from blackboard.settings import Settings, load


def test_a_child_finds_the_same_board_by_the_same_way_in() -> None:
    settings = Settings(
        url="nats://127.0.0.1:4222",
        token_file=Path("token"),
        credentials=Path("credentials"),
        board="desk",
        data_dir=Path("data"),
    )
    child = load(settings.passed_on({"PATH": "/bin", "BLACKBOARD_BOARD": "another"}))

    for what in ("url", "token_file", "credentials", "board", "data_dir"):
        assert getattr(child, what) == getattr(settings, what)


def test_what_is_not_set_is_not_inherited_and_the_rest_is() -> None:
    inherited = {"PATH": "/bin", "BLACKBOARD_URL": "nats://elsewhere", "OPENAI_API_KEY": "k"}

    passed = Settings().passed_on(inherited)

    assert (passed["PATH"], passed["OPENAI_API_KEY"]) == ("/bin", "k")
    assert "BLACKBOARD_URL" not in passed
