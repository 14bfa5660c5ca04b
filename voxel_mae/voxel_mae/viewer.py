"""A cloud with its boxes as one HTML file that turns, moves and zooms in any browser; nothing is fetched.

    write_viewer(Path("cloud.html"), View(...))

Drag to turn, shift-drag to move, wheel to zoom. Points are drawn with WebGL, coloured by height; labels solid,
detections blue. The page carries its data (16-bit centimetres) in itself, and a content policy forbids any request.
All text from data is escaped.
"""

import base64
import json
from pathlib import Path

import jinja2
import numpy as np

from shared.storage import write_atomic

from .boxes import corners
from .pictures import CLASS_COLOURS, FOUND, OTHER, View

MOST_POINTS = 200_000  # more are thinned evenly
STEP_M = 0.01  # of the stored coordinates
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title>
<style>
html, body { margin: 0; height: 100%; background: #14171c; color: #e4e7ec; overflow: hidden;
  font: 14px/1.5 system-ui, sans-serif; }
canvas { width: 100%; height: 100%; display: block; cursor: grab; }
header { position: fixed; top: .8rem; left: 1rem; right: 1rem; pointer-events: none; }
b { color: #ffe3a0; } i { font-style: normal; margin-right: .9rem; }
</style></head><body>
<header>{% if mark %}<b>{{ mark }}</b><br>{% endif %}{{ title }}: {{ shown }} points, {{ labels }} labels,
{{ found }} detections<br>{% for name, colour in legend %}<i style="color: {{ colour }}">{{ name }}</i>{% endfor %}
<br>drag: turn, shift-drag: move, wheel: zoom</header>
<canvas id="view"></canvas>
<script type="application/json" id="data">{{ data }}</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = Uint8Array.from(atob(data.points), c => c.charCodeAt(0));
const raw = new Int16Array(bytes.buffer), points = Float32Array.from(raw, v => v * data.step);
const canvas = document.getElementById("view"), gl = canvas.getContext("webgl", {antialias: true});
function shader(kind, text) { const s = gl.createShader(kind); gl.shaderSource(s, text); gl.compileShader(s);
 return s; }
const program = gl.createProgram();
gl.attachShader(program, shader(gl.VERTEX_SHADER, `attribute vec3 p; attribute vec3 c; uniform mat4 m;
 uniform float own; uniform float size; varying vec3 k;
 void main() { gl_Position = m * vec4(p, 1.0); gl_PointSize = size;
 float h = clamp((p.z + 2.5) / 4.5, 0.0, 1.0);
 k = own > 0.5 ? c : vec3(0.27 + 0.72 * h * h, 0.15 + 0.75 * h, 0.45 + 0.25 * h - 0.55 * h * h); }`));
gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `precision mediump float; varying vec3 k;
 void main() { gl_FragColor = vec4(k, 1.0); }`));
gl.linkProgram(program); gl.useProgram(program);
function buffer(values) { const b = gl.createBuffer(); gl.bindBuffer(gl.ARRAY_BUFFER, b);
 gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW); return b; }
const cloud = buffer(points), lines = buffer(Float32Array.from(data.lines));
const inks = buffer(Float32Array.from(data.inks));
const at = n => gl.getAttribLocation(program, n), uni = n => gl.getUniformLocation(program, n);
let turn = -2.2, tilt = 0.9, far = 55, cx = 0, cy = 0;
function times(a, b) { const o = new Float32Array(16); for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++)
 { let s = 0; for (let k = 0; k < 4; k++) s += a[k * 4 + j] * b[i * 4 + k]; o[i * 4 + j] = s; } return o; }
function matrix() { const a = canvas.width / canvas.height, f = 1.6, n = 0.5, e = 600;
 const lens = [f / a,0,0,0, 0,f,0,0, 0,0,(e + n) / (n - e),-1, 0,0,2 * e * n / (n - e),0];
 const c = Math.cos(turn), s = Math.sin(turn), u = Math.cos(tilt), v = Math.sin(tilt);
 const z = [c,s,0,0, -s,c,0,0, 0,0,1,0, 0,0,0,1], x = [1,0,0,0, 0,u,-v,0, 0,v,u,0, 0,0,0,1];
 const back = [1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,-far,1], move = [1,0,0,0, 0,1,0,0, 0,0,1,0, -cx,-cy,0,1];
 return times(lens, times(back, times(x, times(z, move)))); }
function use(name, b) { gl.bindBuffer(gl.ARRAY_BUFFER, b); gl.enableVertexAttribArray(at(name));
 gl.vertexAttribPointer(at(name), 3, gl.FLOAT, false, 0, 0); }
function draw() { const r = devicePixelRatio || 1; canvas.width = innerWidth * r; canvas.height = innerHeight * r;
 gl.viewport(0, 0, canvas.width, canvas.height); gl.clearColor(0.08, 0.09, 0.11, 1);
 gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); gl.enable(gl.DEPTH_TEST);
 gl.uniformMatrix4fv(uni("m"), false, matrix()); gl.uniform1f(uni("size"), 1.6 * r);
 gl.uniform1f(uni("own"), 0); use("p", cloud); gl.disableVertexAttribArray(at("c"));
 gl.drawArrays(gl.POINTS, 0, points.length / 3);
 if (data.lines.length) { gl.uniform1f(uni("own"), 1); use("p", lines); use("c", inks);
  gl.drawArrays(gl.LINES, 0, data.lines.length / 3); } }
let held = null;
canvas.onpointerdown = e => { held = e; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = () => { held = null; };
canvas.onpointermove = e => { if (!held) return; const dx = e.clientX - held.clientX, dy = e.clientY - held.clientY;
 held = e; if (e.shiftKey) { const k = far / 900, c = Math.cos(turn), s = Math.sin(turn);
 cx -= k * (c * dx - s * dy); cy += k * (s * dx + c * dy); } else { turn += dx * 0.006;
 tilt = Math.min(1.55, Math.max(0, tilt + dy * 0.006)); } draw(); };
canvas.onwheel = e => { e.preventDefault();
 far = Math.min(300, Math.max(3, far * Math.exp(e.deltaY * 0.001))); draw(); };
onresize = draw; draw();
</script></body></html>
"""


def write_viewer(path: Path, view: View, mark: str = "") -> Path:
    """Write the page to `path`, whole or not at all. StorageError when the file system refuses."""
    return write_atomic(Path(path), viewer_html(view, mark))


def viewer_html(view: View, mark: str = "") -> str:
    """The page's text."""
    points = np.asarray(view.points)[:, :3]
    shown = points[:: max(1, -(-len(points) // MOST_POINTS))]
    coarse = np.clip(np.round(shown / STEP_M), -32768, 32767).astype("<i2")
    labelled = [CLASS_COLOURS.get(name, OTHER) for name in view.names]
    lines, inks = _wires(view.boxes, labelled)
    found_lines, found_inks = _wires(view.found, [FOUND] * len(view.found))
    data = {"points": base64.b64encode(coarse.tobytes()).decode(), "step": STEP_M,
            "lines": lines + found_lines, "inks": inks + found_inks}  # fmt: skip
    legend = [*((name, CLASS_COLOURS.get(name, OTHER)) for name in dict.fromkeys(view.names)), ("detections", FOUND)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = json.dumps(data, allow_nan=False)  # numbers and base64 only: nothing in it can end the script element
    return environment.from_string(PAGE.replace("{{ data }}", "{{ data | safe }}")).render(
        title=view.title, mark=mark, shown=f"{len(shown):,} of {len(points):,}", labels=len(view.boxes),
        found=len(view.found), legend=legend, data=text,
    )  # fmt: skip


def _wires(boxes: np.ndarray, colours: list[str]) -> tuple[list[float], list[float]]:
    """Ends of the edges of boxes, x y z after x y z, and a colour for each end."""
    if not len(boxes):
        return [], []
    ends = corners(np.asarray(boxes, dtype=float)[:, :7])[:, np.array(EDGES).ravel()]  # (G,24,3)
    inks = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    repeated = np.broadcast_to(inks[:, None], ends.shape)
    return np.round(ends, 3).ravel().tolist(), np.round(repeated, 3).ravel().tolist()
