// The server behind the page: which model answers, whether all is well with it, and whether it asks for a token.
import { askHealth, askModel, setToken } from "./api.js";
import { $, state } from "./state.js";
import { meaning, sentences } from "./told.js";

const HEALTH_MS = 20_000;

/** Ask for the model, then watch the server; `onReady` is told once there is one. */
export async function start(onReady) {
  try {
    const told = await askModel();
    state.model = told.locate;
    $("research").title = told.research_use_only;
  } catch (error) {
    if (error.status === 401) return askToken(onReady);
    return serverBanner(sentences(error));
  }
  if (!state.model) return serverBanner("No locator answers on this server: promote a version of mammo-locator.");
  showModel();
  onReady();
  checkHealth(onReady);
  setInterval(() => checkHealth(onReady), HEALTH_MS);
}

function askToken(onReady) {
  $("token-dialog").showModal();
  $("token-form").addEventListener("submit", () => {
    setToken($("token").value.trim());
    start(onReady);
  }, { once: true });
}

async function checkHealth(onReady) {
  const told = await askHealth().catch(() => null);
  if (!told) return serverBanner("The server does not answer. What you have read so far is still here: export it.");
  const faults = (told.models ?? []).filter((slot) => slot.fault).map((slot) => `${slot.name}: ${slot.fault.split("\n").slice(0, 2).join(" ")}`);
  serverBanner(faults.join(" "));
  const version = told.models?.find((slot) => slot.name === state.model.name)?.version;
  if (version && version !== state.model.version) {
    const fresh = await askModel().catch(() => null);
    if (!fresh?.locate) return;
    state.model = fresh.locate;
    showModel();
    onReady();
    serverBanner(`Version ${version} answers from now on, and the threshold is its own. Films that are open keep the answers they have.`);
  }
}

function serverBanner(text) {
  $("server-banner").textContent = text;
  $("server-banner").hidden = !text;
}

function showModel() {
  const { model } = state;
  $("model-name").textContent = `${model.name} version ${model.version}`;
  $("model-name").title = `bundle ${model.bundle_sha256}`;
  $("meaning").replaceChildren(...meaning(model));
}
