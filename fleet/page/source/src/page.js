// The page: connects, then shows what the address after # names.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { open } from "./nats.js";
import { useOwn } from "./use.js";
import { Deliberations } from "./deliberations.js";
import { Fleet } from "./fleet.js";
import { Task } from "./task.js";
import { ListView } from "./views/list.js";
import { TaskView } from "./views/task.js";
import { CostView } from "./views/cost.js";
import { FleetView } from "./views/fleet.js";
import { Letters } from "./letters.js";
import { LettersView } from "./views/letters.js";

const place = () => {
  const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { kind: kind || "list", id: decodeURIComponent(rest.join("/")) };
};

function Page() {
  const [link, setLink] = useState(null);
  const [state, setState] = useState("connecting");
  const [problem, setProblem] = useState(null);
  const [at, setAt] = useState(place());
  const list = useOwn(() => link && new Deliberations(link), link);

  const connect = async (user, pass) => {
    setProblem(null);
    let servers = [`${location.protocol === "https:" ? "wss" : "ws"}://${location.hostname}:9222`];
    try {
      const settings = await (await fetch("settings.json")).json();
      if (settings.servers?.length) servers = settings.servers;
      const made = await open({ servers, user, pass });
      made.states(setState);
      setState("connected");
      setLink(made);
    } catch (error) {
      setState("refused");
      setProblem(unconnected(error, servers));
    }
  };

  useEffect(() => {
    connect();
    const moved = () => {
      setAt(place());
      document.getElementById("main")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);

  useEffect(() => {
    document.title = at.kind === "task" ? `${at.id} – Fleet` : { fleet: "The fleet", cost: "Cost – Fleet", letters: "Dead letters – Fleet" }[at.kind] ?? "Deliberations – Fleet";
  }, [at]);

  if (!link) return state === "refused" ? html`<${Login} problem=${problem} connect=${connect} />` : html`<p class="waiting">Connecting …</p>`;
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.getElementById("main").focus())}>To the content</a>
    <header class="top">
      <nav aria-label="Pages">
        <a href="#/" aria-current=${at.kind === "list" ? "page" : null}>Deliberations</a>
        <a href="#/cost" aria-current=${at.kind === "cost" ? "page" : null}>Cost</a>
        <a href="#/fleet" aria-current=${at.kind === "fleet" ? "page" : null}>The fleet</a>
        <a href="#/letters" aria-current=${at.kind === "letters" ? "page" : null}>Dead letters</a>
      </nav>
      <p role="status" class=${`link ${state}`}>${state === "connected" ? "connected" : "NATS is away: what is shown may be old"}</p>
    </header>
    <main id="main" tabindex="-1"><${Shown} link=${link} list=${list} at=${at} key=${`${at.kind}/${at.id}`} /></main>`;
}

// One list for all of them: it is read once.
const OWN = { task: (link, id) => new Task(link, id), fleet: (link) => new Fleet(link), letters: (link) => new Letters(link) };
const VIEWS = { task: TaskView, fleet: FleetView, letters: LettersView, cost: CostView };

function Shown({ link, list, at }) {
  const own = useOwn(() => OWN[at.kind]?.(link, at.id) ?? null, at);
  const store = at.kind in OWN ? own : list;
  const View = VIEWS[at.kind] ?? ListView;
  return store && list && html`<${View} store=${store} link=${link} list=${list} />`;
}

// A browser does not tell a page why a connection failed: nobody listens there, or a certificate that it does not trust.
const unconnected = (error, servers) =>
  /authori[sz]ation|permission/i.test(`${error?.name} ${error?.message}`)
    ? error.message
    : `No connection to ${servers.join(", ")}${error?.message ? `: ${error.message}` : ""}. Does NATS listen there for browsers, from this page's address, and does this browser trust its certificate?`;

function Login({ problem, connect }) {
  const submit = (event) => {
    event.preventDefault();
    const data = new FormData(event.target);
    connect(data.get("user"), data.get("password"));
  };
  return html`<main class="login">
    <h1>Connect to NATS</h1>
    <p>Who may see a deliberation is for NATS to say. The password stays in this page, and is forgotten with it.</p>
    ${problem && html`<p class="bad" role="alert">${problem}</p>`}
    <form onSubmit=${submit}>
      <label>User <input name="user" autocomplete="username" /></label>
      <label>Password <input name="password" type="password" autocomplete="current-password" /></label>
      <button>Connect</button>
    </form>
  </main>`;
}

render(html`<${Page} />`, document.getElementById("page"));
