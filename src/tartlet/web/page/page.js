// The page: which of the two is shown, the buttons, and what is said about the VM.

import { Screen } from "./screen.js";
import { Terminal } from "./terminal.js";

const one = (selector) => document.querySelector(selector);
const guest = await (await fetch("guest")).json();
const states = {};
let screen = null;

const terminal = new Terminal(one("#terminal .surface"), (state) => heard("terminal", state));
if (guest.screen) {
  screen = new Screen(one("#screen .surface"), guest, (state) => heard("screen", state));
} else {
  for (const gone of ["#screen", "#views", "#full", "#reset-keys"]) {
    one(gone).hidden = true;
  }
}
show(guest.screen ? (innerWidth < 800 ? "screen" : "both") : "terminal");

for (const choice of document.querySelectorAll("#views input")) {
  choice.addEventListener("change", () => show(choice.value));
}
one("#paste").hidden = !(screen && guest.clipboard);
one("#paste").addEventListener("click", () => screen.paste());
one("#reset-keys").addEventListener("click", () => screen.pressResetKeys());
one("#size").addEventListener("click", () => terminal.tellSize());
one("#full").addEventListener("click", () => screen.fill(one("#screen")));

// Before the guest sees it: whoever cannot use a pointer has to get out of the screen again.
addEventListener("keydown", leave, { capture: true });

function leave(event) {
  if (event.ctrlKey && event.altKey && event.code === "Home") {
    event.preventDefault();
    event.stopImmediatePropagation();
    screen?.releaseKeys();
    one("#views:not([hidden]) :checked, #size").focus();
  }
}

function show(view) {
  document.body.dataset.view = view;
  const choice = one(`#views [value="${view}"]`);
  choice.checked = true;
  if (document.activeElement !== choice) {
    (view === "terminal" || !screen ? terminal : screen).focus();
  }
}

function heard(who, state) {
  states[who] = state;
  const said = Object.values(states);
  tell(["stopped", "locked", "given up", "lost"].find((word) => said.includes(word)) ?? "running");
}

function tell(state) {
  const words = { lost: "connection lost", locked: "another run", "given up": "connection lost" };
  one("#state").dataset.state = state;
  one("#state").textContent = words[state] ?? state;
  for (const button of document.querySelectorAll("#actions button")) {
    button.disabled = state !== "running";
  }
  const notice = one("#notice");
  notice.replaceChildren(...(NOTICES[state]?.() ?? []));
  notice.hidden = !notice.hasChildNodes();
}

const NOTICES = {
  stopped: () => [`${guest.name} no longer runs. Start it, and get a new link, with `, code(`tart run ${guest.name} --web`)],
  locked: () => ["This page belongs to an earlier run. Get a new link with ", code(`tart web ${guest.name}`)],
  lost: () => ["The VM has been stopped or cannot be reached. Trying again…"],
  "given up": () => ["The VM has been stopped or cannot be reached.", again()],
};

function code(text) {
  return Object.assign(document.createElement("code"), { textContent: text });
}

function again() {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  button.addEventListener("click", () => location.reload());
  return button;
}
