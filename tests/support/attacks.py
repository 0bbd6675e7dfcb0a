"""Texts that attack a page, a template or a spreadsheet, and a server whose objects have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import medtask
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel, StoredRun
from support.filled_server import ApiClient
from support.live_server import LiveServer

CODE = "window.executed=1"
# {} is the code that must not run. From OWASP's cheat sheet on filter evasion, by context.
PAYLOADS = (
    "<script>{}</script>",
    "</script><script>{}</script>",
    "</title><script>{}</script>",
    "</textarea><script>{}</script>",
    '"><script>{}</script>',
    "'><script>{}</script>",
    "<img src=x onerror={}>",
    '"><img src=x onerror={}>',
    "' onmouseover='{}' autofocus onfocus='{}",
    '" onfocus="{}" autofocus x="',
    "<svg onload={}>",
    "<svg><animate onbegin={} attributeName=x dur=1s>",
    "<details open ontoggle={}>",
    '<iframe srcdoc="<script>parent.{}</script>">',
    "<iframe src=javascript:parent.{}>",
    "<a href=javascript:{} autofocus>x</a>",
    "javascript:{}",
    "<base href=//elsewhere.example/>",
    "<link rel=stylesheet href=//elsewhere.example/x.css>",
    "<img src=//elsewhere.example/x.png>",
    "<style>@import '//elsewhere.example/x.css'</style>",
    "<meta http-equiv=refresh content='0;url=//elsewhere.example'>",
    "<form action=//elsewhere.example><button autofocus>x",
    "<object data=//elsewhere.example/x>",
    "<math><mtext></mtext><script>{}</script></math>",
    "<template><script>{}</script></template>",
    "<!--><script>{}</script>-->",
    "<![CDATA[<script>{}</script>]]>",
    "<ScRiPt>{}</sCrIpT>",
    "<scr<script>ipt>{}</script>",
    "&lt;script&gt;{}&lt;/script&gt;",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "<div hx-on:load='{}' hx-get='/api/me' hx-trigger='load'>x</div>",
    "<div hx-get='//elsewhere.example' hx-trigger='load'>x</div>",
    "{{ {} }}",
    "{{ 7 * 7 }}{% raw %}",
    "${{{}}}",
    "`${{{}}}`",
    "<x onclick={} tabindex=1 autofocus>x",
    "<video><source onerror={}></video>",
    "<body onload={}>",
    "<body onpageshow={}>",
    "<input autofocus onfocus={}>",
    "<select autofocus onfocus={}>",
    "<textarea autofocus onfocus={}>",
    "<button autofocus onfocus={}>x",
    "<marquee onstart={}>x</marquee>",
    "<audio src=x onerror={}>",
    "<audio autoplay onloadstart={}><source src=x>",
    "<video src=x onerror={}></video>",
    "<video poster=javascript:{}></video>",
    "<embed src=javascript:{}>",
    "<object data=javascript:{}></object>",
    "<iframe onload={}></iframe>",
    "<iframe srcdoc='<img src=x onerror=parent.{}>'></iframe>",
    "<frameset onload={}>",
    "<img src=x onerror='{}' x='",
    "<img/src=x/onerror={}>",
    "<img src='x'onerror={}>",
    "<img/**/src=x onerror={}>",
    "<img src=x:x onerror=&#119;indow.executed=1>",
    "<image src=x onerror={}>",
    "<svg><script>{}</script></svg>",
    "<svg><script href=data:,{} />",
    "<svg><a xlink:href=javascript:{}><text y=20>x</text></a></svg>",
    "<svg><set onbegin={} attributeName=x>",
    "<svg><foreignObject><img src=x onerror={}></foreignObject></svg>",
    "<svg><style><img src=x onerror={}></style></svg>",
    "<math href=javascript:{}>x</math>",
    "<math><mi//xlink:href=data:x,<script>{}</script>>",
    "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<title><img src=x onerror={}></title>",
    "<xmp><img src=x onerror={}></xmp>",
    "<style><img src=x onerror={}></style>",
    "<table background=javascript:{}><tr><td>x",
    "<div style=background:url(javascript:{})>x</div>",
    "<div style=width:expression({})>x</div>",
    "<p onpointerrawupdate={}>x</p>",
    "<div onanimationstart={} style=animation-name:x>x</div>",
    "<details ontoggle={} open><summary>x</summary></details>",
    "<dialog open onclose={}><form method=dialog><button autofocus>x",
    "<a href=data:text/html,<script>{}</script>>x</a>",
    "<a href=' javascript:{}'>x</a>",
    "<a href=java&#9;script:{}>x</a>",
    "<form><button formaction=javascript:{} autofocus>x",
    "<isindex action=javascript:{} type=submit>",
    "<keygen autofocus onfocus={}>",
    "<link rel=import href=data:text/html,<script>{}</script>>",
    "<script src=data:,{}></script>",
    "<script type=module>{}</script>",
    "<script>/*</script><script>*/{}</script>",
    "<script\\x20type=text/javascript>{};</script>",
    "</script><svg onload={}>",
    "--><script>{}</script><!--",
    "]]><script>{}</script>",
    "'-{}-'",
    "\\'-{}//",
    '"-{}-"',
    "</select><script>{}</script>",
    "</option></select><img src=x onerror={}>",
)
FORMULAS = (
    '=HYPERLINK("http://elsewhere.example")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
)


_PLAIN_TASK = json.dumps(
    {
        "name": "plain",
        "instruction": "Which one?",
        "input": "{{ text }}",
        "answer": {"kind": "label", "labels": ["a", "b"]},
    }
)


def fill(payload: str) -> str:
    """An attack with the code that it runs."""
    return payload.replace("{}", CODE)


ATTACKS = tuple(fill(payload) for payload in PAYLOADS)


def add_hostile_objects(server: LiveServer, folder: Path) -> dict[str, int]:
    """Objects of all kinds whose names, columns, labels and texts are attacks; returns their ids.

    One task has all attacks as labels, and the table has them as columns, ids and texts.
    """
    texts = [*ATTACKS, *FORMULAS]
    columns = ["case", "text", *ATTACKS]
    rows = [
        {**dict.fromkeys(columns, text), "case": f"{number} {text}"}
        for number, text in enumerate(texts)
    ]
    task = {
        "name": ATTACKS[4],
        "instruction": " ".join(text for text in ATTACKS if "{" not in text),
        "input": "{{ text }}",
        "id": "case",
        "answer": {"kind": "label", "labels": {text: f"about {text}" for text in ATTACKS}},
    }
    (folder / "task.json").write_text(json.dumps(task))
    run = folder / "run"
    medtask.run(medtask.load_task(folder), medtask.load_model("fake:seed=1"), rows, out=run)
    with ApiClient(server) as api:
        for text in ATTACKS:  # as names of files, data sets and tasks
            api.upload(f"{text} x.csv", b"id,text\n1,a\n")
            api.call("POST", "/api/tasks", json={"text": _PLAIN_TASK, "name": text})
        new = {"name": ATTACKS[0], "rows": rows}
        dataset = int(api.call("POST", "/api/datasets/rows", json=new)["id"])
        stored = {"text": json.dumps(task), "name": ATTACKS[7]}
        task_id = int(api.call("POST", "/api/tasks", json=stored)["id"])
        with server.database.write() as session:
            model = StoredModel(name=ATTACKS[8], task_id=task_id, base=ATTACKS[9], settings={})
            session.add(model)
            session.flush()
            added = StoredRun(
                name=ATTACKS[10],
                task_id=task_id,
                dataset_id=dataset,
                model=ATTACKS[11],
                settings={"gold": ATTACKS[3]},
            )
            session.add(added)
            session.flush()
        target = DataFolder(server.settings.data_folder).get_folder("runs", added.id)
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(run, target)
        review = {"run_id": added.id, "name": ATTACKS[5], "settings": {"order": "table"}}
        queue = int(api.call("POST", "/api/reviews", json=review)["id"])
        job = api.call("POST", f"/api/runs/{added.id}/evaluate", json={"gold": ATTACKS[6]})
    return {
        "dataset_id": dataset,
        "task_id": task_id,
        "model_id": model.id,
        "run_id": added.id,
        "queue_id": queue,
        "job_id": int(job["id"]),
    }
