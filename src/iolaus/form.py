"""The page on which `iolaus serve` can be tried: one file, without anything from elsewhere."""

import math
from html import escape
from typing import Any

from iolaus.strict_json import to_json

HINTS = {
    "tokens": "a text to go on from",
    "user_item": "a user's name, or several with commas between",
    "point_pair": "a name and its distances to all points of the map",
}

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title><link rel="icon" href="data:,"><style>
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --hot: #2563eb; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.35rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
label { display: block; margin: 0 0 .8rem; } label span { display: block; font-size: .88rem; opacity: .8; overflow-wrap: anywhere; }
#columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0 1rem; }
input, select, textarea { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem;
  border: 1px solid var(--line); border-radius: .4rem; background: transparent; color: inherit; } select option { color: initial; }
button { font: inherit; padding: .6rem 1.6rem; border: 0; border-radius: .4rem; background: var(--hot); color: #fff; cursor: pointer; }
button:disabled { opacity: .5; } #error { color: #dc2626; white-space: pre-wrap; overflow-wrap: anywhere; }
#warnings { color: #b45309; white-space: pre-wrap; overflow-wrap: anywhere; }
#out { overflow-x: auto; margin-top: 1.2rem; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); white-space: pre-wrap; overflow-wrap: anywhere; }
th { font-weight: 600; font-size: .88rem; } .bar { background: var(--hot); height: .55rem; border-radius: .3rem; min-width: 1px; }
.wide { width: 45%; } pre { background: var(--soft); padding: .7rem; border-radius: .4rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; opacity: .8; margin-top: 1.5rem; }
</style></head><body><h1>TITLE</h1><form id="form"><div id="columns"></div></form><p id="error" role="alert"></p>
<p id="warnings" role="status"></p><div id="out"></div>
<details><summary>by a program</summary><pre id="how"></pre></details>
<script type="application/json" id="fields">FIELDS</script><script>
const fields = JSON.parse(document.getElementById("fields").textContent), form = document.getElementById("form");
const make = (tag, more = {}, ...inside) => { const e = Object.assign(document.createElement(tag), more); e.append(...inside); return e; };
const label = (text, input) => make("label", {}, make("span", {textContent: text}), input);
const inputs = fields.columns.map(c => {
  const input = c.choices ? make("select", {}, ...c.choices.map(v => make("option", {value: v, textContent: v})))
                          : make("input", {inputMode: "decimal", value: c.value});
  document.getElementById("columns").append(label(c.name, input)); return [c.name, input]; });
let text, file;
if (fields.text) form.append(label(fields.text, text = make("textarea", {rows: 4})));
if (fields.file) form.append(label(fields.file, file = make("input", {type: "file", accept: fields.accept})));
const button = make("button", {textContent: "Predict"}); form.append(button);
document.getElementById("how").textContent = fields.how.replaceAll("HERE", location.origin);
const heading = name => name === "prediction" && fields.target ? `prediction (${fields.target})` : name;
const number = v => typeof v === "number" && !Number.isInteger(v) ? Number(v.toPrecision(6)) : v ?? "";
function table(rows) {
  if (rows.length === 1 && Object.keys(rows[0]).some(k => k.startsWith("p_"))) {
    const all = Object.entries(rows[0]).filter(([k]) => k.startsWith("p_")).sort((a, b) => b[1] - a[1]).slice(0, 20);
    const named = fields.target ? fields.target + ": " : "", best = make("strong", {textContent: rows[0].prediction});
    return make("div", {}, make("p", {}, named, best), make("table", {}, ...all.map(([k, v]) => {
      const bar = make("div", {className: "bar"}); bar.style.width = 100 * v + "%";
      return make("tr", {}, make("td", {textContent: k.slice(2)}), make("td", {textContent: v.toFixed(4)}),
        make("td", {className: "wide"}, bar)); })));
  }
  const names = Object.keys(rows[0] ?? {});
  return make("table", {}, make("tr", {}, ...names.map(n => make("th", {textContent: heading(n)}))),
    ...rows.slice(0, 500).map(r => make("tr", {}, ...names.map(n => make("td", {textContent: number(r[n])})))));
}
form.onsubmit = async event => {
  event.preventDefault();
  const [error, warnings, out] = ["error", "warnings", "out"].map(id => document.getElementById(id));
  error.textContent = warnings.textContent = ""; out.replaceChildren(); button.disabled = true;
  try {
    let request;
    if (file?.files.length) { const body = new FormData(); body.append("file", file.files[0]); request = {method: "POST", body}; }
    else {
      const content = text ? {texts: [text.value]} : {rows: [Object.fromEntries(inputs.map(([n, i]) => [n, i.value]))]};
      request = {method: "POST", body: JSON.stringify(content), headers: {"content-type": "application/json"}};
    }
    const answer = await (await fetch("/predict", request)).json();
    warnings.textContent = (answer.warnings ?? []).map(line => "warning: " + line).join("\\n");
    if (answer.error) error.textContent = answer.error; else out.append(table(answer.predictions));
  } catch (problem) { error.textContent = "the server does not answer: " + problem.message; }
  button.disabled = false;
};
</script></body></html>
"""


def page(title: str, data: Any) -> str:
    """The page for a run.

    Args:
        title: the run's name.
        data: its data module, which says what an input is.
    """
    fields = to_json(_fields(data), ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.replace("TITLE", escape(title)).replace("FIELDS", fields)


def _fields(data: Any) -> dict[str, Any]:
    """What is asked for: values by column, a text, a file."""
    kind, shape = data.input_kind, data.input_shape or ()
    encoding = getattr(data, "encoding", None)  # of columns; of a text that of its characters
    columns = [
        {"name": name, "choices": known["categories"], "value": ""}
        for name, known in (encoding.items() if isinstance(encoding, dict) else ())
    ]
    text = None
    file: str | None = "or a file of rows in the form of the run's data"
    accept = ""
    how = "curl HERE/predict -F file=@new_rows.csv"
    if kind in ("image", "audio"):
        accept, file = ("image/*", "an image") if kind == "image" else (".wav,audio/wav", "a WAV file")
        how = f"curl HERE/predict -F file=@{'photo.png' if kind == 'image' else 'message.wav'}"
    elif columns:
        row = to_json({column["name"]: (column["choices"] or [0])[0] for column in columns}, ensure_ascii=False)
        how = f"curl HERE/predict -H 'content-type: application/json' -d '{{\"rows\": [{row}]}}'\n{how}"
    else:
        text = f"{math.prod(shape)} numbers with commas between" if kind == "table" else HINTS.get(kind, "a text")
        how = f"curl HERE/predict -H 'content-type: application/json' -d '{{\"texts\": [\"...\"]}}'\n{how}"
    target = getattr(data, "target", None)  # the name of a column
    return {"columns": columns, "target": target, "text": text, "file": file, "accept": accept, "how": how}
