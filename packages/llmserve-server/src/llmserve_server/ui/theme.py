"""The look of the page: a theme with fonts that Gradio serves, and the style sheet and script beside this module.

Nothing here may refer to another host, because the page must work without a network.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

__all__ = ["gradio_theme", "head", "icon", "style_sheet"]

_BLUE = gr.themes.Color(
    name="llmserve",
    c50="#eef5fb",
    c100="#d7e8f6",
    c200="#b0d1ec",
    c300="#7fb4de",
    c400="#4c94cc",
    c500="#1f77b8",
    c600="#0b64a6",
    c700="#0a5288",
    c800="#0a416b",
    c900="#0a3250",
    c950="#071f33",
)


def gradio_theme() -> gr.themes.Base:
    """Return OpenEnv's white theme in this project's blue and with local fonts."""
    # Weights 400 and 700: the semi-bold files that Gradio 6.31 ships hold Cyrillic letters only.
    fonts = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"
    mono = gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"
    return gr.themes.Base(
        primary_hue=_BLUE,
        secondary_hue=_BLUE,
        neutral_hue="zinc",
        font=fonts,
        font_mono=mono,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    ).set(
        body_background_fill="#fbfbfc",
        body_background_fill_dark="#0e1013",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#15181c",
        background_fill_secondary="#f6f7f9",
        background_fill_secondary_dark="#1b1f24",
        block_background_fill="*background_fill_primary",
        block_background_fill_dark="*background_fill_primary",
        block_border_width="0px",
        block_shadow="none",
        block_label_text_color="#3f4650",
        block_info_text_color="#5b6470",
        block_info_text_color_dark="#a3adb8",
        body_text_color="#16191d",
        body_text_color_dark="#eceff3",
        body_text_color_subdued="#5b6470",
        body_text_color_subdued_dark="#a3adb8",
        border_color_primary="#e3e6ea",
        border_color_primary_dark="#2b3138",
        input_background_fill="#ffffff",
        input_background_fill_dark="#101317",
        input_border_color="#d3d8de",
        input_border_color_dark="#3a424b",
        input_border_width="1px",
        button_primary_background_fill="#0b64a6",
        button_primary_background_fill_hover="#0a5288",
        button_primary_background_fill_dark="#2f8fd0",
        button_primary_background_fill_hover_dark="#56a8de",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#06121c",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1b1f24",
        button_secondary_border_color="#c9cfd6",
        button_secondary_border_color_dark="#3a424b",
        button_border_width="1px",
        color_accent="#0b64a6",
        slider_color="#0b64a6",
        slider_color_dark="#56a8de",
    )


def style_sheet() -> str:
    """Return the page's CSS."""
    return _read("page.css")


def head() -> str:
    """Return the page's script, for the document's head."""
    return f"<script>{_read('page.js')}</script>"


def icon() -> bytes:
    """Return the page's icon, SVG."""
    return _read("icon.svg").encode()


def _read(name: str) -> str:
    return (files("llmserve_server.ui") / "static" / name).read_text(encoding="utf-8")
