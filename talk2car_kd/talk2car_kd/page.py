"""A small page: upload a picture, type a command, see the box and where the model looked.

It serves this machine alone (127.0.0.1) unless told otherwise, sends nothing anywhere, and needs nothing from the
network: system fonts, no analytics, no share link. When the checkpoint's embedded world is still there, some of its
validation commands are offered as examples.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from shared.errors import DataError, UserError
from shared.run import run_command, world_from_environment

from .config import Config
from .inference import evenly
from .single import Grounder, Grounding, add_model_arguments
from .stages.context import embedded_folder
from .student import parameter_count
from .talk2car import find_talk2car, load_commands

Example = tuple[str, str]  # image path, command

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")
MAX_UPLOAD = "20mb"
EXAMPLES = 6
NO_ANSWER = "The answer comes here: on the left the box, on the right where the model looked."
CSS = """
.gradio-container, .gradio-container > main { width: 100% !important; max-width: 1180px !important; }
.gradio-container { margin: 0 auto !important; }
#title h1 { font-size: 1.9rem; letter-spacing: -0.02em; margin: 0.6rem 0 0.1rem; }
#title p { opacity: 0.75; margin: 0; }
#mark { background: #ffc83d; color: #16191f; border-radius: 8px; padding: 0.45rem 0.9rem; font-weight: 600; }
#mark p { color: #16191f; margin: 0; }
#answer { padding: 0 0.3rem; opacity: 0.9; }
#answer table { width: 100%; font-variant-numeric: tabular-nums; border-collapse: collapse; }
#answer table, #answer th, #answer td, #answer tr { border-color: rgba(128, 134, 150, 0.25) !important; }
#answer td:not(:first-child), #answer th:not(:first-child) { text-align: right; }
footer { display: none !important; }
"""


def import_gradio():
    """gradio, with its analytics off; UserError without the `app` extra."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs the extra `app` (gradio is missing): pip install -e .[app]") from error
    return gradio


def world_examples(config: Config, wanted: int = EXAMPLES) -> list[Example]:
    """Validation commands of the checkpoint's embedded world with their frames; none when it is not on this machine."""
    if config.world is None or not (root := embedded_folder(config) / "talk2car").is_dir():
        return []
    commands = load_commands(find_talk2car(root), "val", frame_wh=config.stage2.frame_wh)
    return [(str(commands[i].image_path), commands[i].text) for i in evenly(len(commands), wanted)]


def build_page(grounder: Grounder, examples: Sequence[Example] = ()):
    """The page as gradio Blocks; gradio 6 takes its looks at launch (`launch_options`)."""
    gr = import_gradio()

    def answer(image: np.ndarray | None, command: str) -> tuple[Image.Image, str]:
        if image is None:
            raise gr.Error("Choose a picture first.")
        try:
            found = grounder.ground(image, command)
        except (UserError, DataError) as error:
            raise gr.Error(str(error)) from error
        return grounder.draw(image, found), answer_table(grounder, found, image.shape[1::-1])

    plain = {"show_label": False, "buttons": ["download", "fullscreen"]}  # gradio's third button shares on the internet
    with gr.Blocks(title="Talk2Car grounding", analytics_enabled=False, fill_width=False) as page:
        gr.Markdown(f"# Where should the car look?\n{introduction(grounder)}", elem_id="title")
        if grounder.mark:
            gr.Markdown(grounder.mark, elem_id="mark")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                sources = ["upload", "clipboard"]
                image = gr.Image(
                    label="Picture",
                    type="numpy",
                    image_mode="RGB",
                    sources=sources,
                    height=230,
                    elem_id="image",
                    **plain,
                )
                command = gr.Textbox(label="Command", placeholder="stop behind the red car", lines=2, elem_id="command")
                button = gr.Button("Ground it", variant="primary", elem_id="ground")
            with gr.Column(scale=5, min_width=420):
                picture = gr.Image(
                    label="Answer", type="pil", format="png", interactive=False, height=310, elem_id="picture", **plain
                )
                table = gr.Markdown(NO_ANSWER, elem_id="answer")
        gr.on([button.click, command.submit], answer, [image, command], [picture, table], api_name="ground")
        if examples:
            gr.Examples([list(pair) for pair in examples], [image, command], label="Try one of the embedded world",
                        cache_examples=False, elem_id="examples")  # fmt: skip
    return page


def introduction(grounder: Grounder) -> str:
    student, head = grounder.model.encoder, grounder.model.head
    millions = f"{parameter_count(student) / 1e6:.2f} M + {parameter_count(head) / 1e6:.2f} M parameters"
    backbone = grounder.record["student"]["backbone"]
    return f"Type a driving command; a {backbone} student with its grounding head ({millions}) points at what it means."


def answer_table(grounder: Grounder, found: Grounding, image_wh: Sequence[int]) -> str:
    """The boxes as a Markdown table of numbers (no text from outside goes in)."""
    rows = [
        (image_wh, found.box_image_px, "this picture"),
        (grounder.config.stage2.frame_wh, found.box_frame_px, "frame"),
    ]
    lines = [f"| {name}, {wh[0]} x {wh[1]} px | " + " | ".join(f"{value:.1f}" for value in box) + " |"
             for wh, box, name in rows]  # fmt: skip
    return "\n".join(["| box | x | y | w | h |", "| :-- | --: | --: | --: | --: |", *lines])


def launch_options(gr) -> dict:
    """Looks and limits: a quiet theme with the system's own fonts."""
    theme = gr.themes.Soft(primary_hue="orange", neutral_hue="slate", font=FONT, font_mono=MONO)
    return {
        "theme": theme,
        "css": CSS,
        "share": False,
        "max_file_size": MAX_UPLOAD,
        "footer_links": [],
        "ssr_mode": False,
        "pwa": False,
    }


def serve(args: argparse.Namespace) -> int:
    with world_from_environment(args.device) as world:
        grounder = Grounder.load(args.checkpoint, teacher=args.teacher, results=args.results, device=world.device)
    gr = import_gradio()
    page = build_page(grounder, world_examples(grounder.config))
    print(f"model {grounder.path}\nstop with Ctrl-C", flush=True)
    try:
        page.launch(server_name=args.host, server_port=args.port, inbrowser=False, prevent_thread_lock=True,
                    **launch_options(gr))  # fmt: skip
    except OSError as error:
        raise UserError(f"port {args.port} on {args.host} is not free ({error}); choose another --port") from error
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.py", description="A page to type a driving command over a picture.")
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args(argv)
    return run_command(lambda: serve(args))
