// What the page asks the server: films to look at and to locate lesions on, and what answers.

const TOKEN = "mammo-token";
let token = takeToken();

/** A token may come behind the address, as in #token=…; it is taken from there, so that it stays in no history. */
function takeToken() {
  const told = new URLSearchParams(location.hash.slice(1)).get("token");
  if (told) {
    sessionStorage.setItem(TOKEN, told);
    history.replaceState(null, "", location.pathname);
  }
  return told ?? sessionStorage.getItem(TOKEN) ?? "";
}

export function setToken(told) {
  token = told;
  sessionStorage.setItem(TOKEN, told);
}

export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** A refusal of the server, or no answer from it: what is wrong, and what to do. */
export class Refused extends Error {
  constructor(status, error, remedy) {
    super(error);
    this.status = status;
    this.remedy = remedy;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() }, cache: "no-store" });
  } catch {
    throw new Refused(0, "The server does not answer.", "Look whether it runs, then try again.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.error ?? `The server answered ${answer.status}.`, told.remedy ?? "");
}

/** Names of films often hold those of women: only the end of a name is sent. */
function form(file, spacing) {
  const suffix = /\.[a-z0-9]{1,5}$/i.exec(file.name)?.[0] ?? "";
  const sent = new FormData();
  sent.append("film", file, `film${suffix}`);
  if (spacing) sent.append("pixel_spacing_mm", spacing);
  return sent;
}

export async function askModel() {
  return (await ask("v1/model")).json();
}

export async function askHealth() {
  return (await fetch("health", { headers: authorization(), cache: "no-store" })).json();
}

export async function askView(file, spacing) {
  const answer = await ask("v1/view", { method: "POST", body: form(file, spacing) });
  const number = (name) => Number(answer.headers.get(name)) || null;
  return {
    picture: await answer.arrayBuffer(),
    width: number("Film-width-px"),
    height: number("Film-height-px"),
    spacing: number("Film-pixel-spacing-mm"),
  };
}

export async function askLocate(file, spacing) {
  return (await ask("v1/locate", { method: "POST", body: form(file, spacing) })).json();
}
