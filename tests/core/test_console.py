import builtins
import io
import sys

from rich.console import Console

from pipeline.core.console import StageConsole, warn


def test_a_warning_has_plain_blanks_before_a_percent_sign_and_shows_those_of_names():
    output = io.StringIO()
    warn(Console(file=output, width=200), "right for 63.2\u00a0% (95\u00a0% interval) of P\u00a01")
    assert output.getvalue() == "warning: right for 63.2 % (95 % interval) of P\\xa01\n"


def test_what_a_stage_prints_has_plain_blanks_before_a_percent_sign(capsys):
    StageConsole().print("accuracy 50.0\u00a0% (95\u00a0% interval) -> P\u00a01", highlight=False)
    assert capsys.readouterr().out == "accuracy 50.0 % (95 % interval) -> P\u00a01\n"


def test_a_notebook_gets_plain_text_and_no_bars(monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console = StageConsole()
    console.print("done in [1] 3 steps")
    assert capsys.readouterr().out == "done in [1] 3 steps\n"
    assert not console.is_terminal, "bars are drawn on terminals alone"
