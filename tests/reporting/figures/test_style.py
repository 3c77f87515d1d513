"""The style of all figures: what a font cannot show is said."""

import io

import matplotlib.font_manager

from pipeline.reporting.figures import style


def draw(text):
    with style.open_figure(2, 1) as figure:
        figure.suptitle(text)
        return style.save_png(figure)


def test_letters_of_other_scripts_are_looked_for_in_the_installed_fonts_that_may_have_them():
    assert style.choose_fonts(["Yu Gothic", "Comic Sans MS", "Noto Sans CJK JP", "DejaVu Sans"]) == [
        "DejaVu Sans",
        "Noto Sans CJK JP",
        "Yu Gothic",
    ]


def test_letters_that_no_font_has_are_named_once_and_others_never(monkeypatch, caplog):
    monkeypatch.setattr(matplotlib.font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    style._warn_of_boxes.cache_clear()
    assert draw("Grüße, 50 % ≥ α") != draw("other")
    assert caplog.messages == []
    draw("健常 and 健")
    draw("健常 again")
    (message,) = caplog.messages
    assert "no font of this machine has 健常 (cjk unified ideograph-5065)" in message


def test_a_figure_that_is_drawn_once_is_the_one_that_savefig_draws_twice():
    def plot(figure):
        axes = figure.subplots()
        axes.plot([0, 1, 4], [2, 3, 9], label="a name of some length")
        axes.set(xlabel="patients", ylabel="accuracy")
        figure.legend(loc="outside lower center")
        return figure

    with style.open_figure(3, 2) as figure:
        once = style.save_png(plot(figure))
    with style.open_figure(3, 2) as figure:
        twice = io.BytesIO()
        plot(figure).savefig(twice, format="png", dpi=style.DOTS_PER_INCH, metadata={"Software": None})
    assert once == twice.getvalue()
