// A WebSocket to the VM that is opened again when it breaks, until the VM has ended or the session has.

const ENDED = 4000; // the close code for it
const PAUSE = 2000; // milliseconds between two attempts
const ATTEMPTS = 150;

export class Stream {
  // `begin` gets each new socket; `tell` hears "running", "lost", "stopped", "locked" and "given up".
  constructor(path, begin, tell) {
    this.path = path;
    this.begin = begin;
    this.tell = tell;
    this.connect();
  }

  connect(attempt = 1) {
    const address = new URL(this.path, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => {
      attempt = 1;
      this.tell("running");
    });
    this.socket.addEventListener("close", (event) => this.closed(event.code, attempt));
    this.begin(this.socket);
  }

  async closed(code, attempt) {
    const state = code === ENDED ? "stopped" : attempt < ATTEMPTS ? await standing() : "given up";
    this.tell(state);
    if (state === "lost") {
      setTimeout(() => this.connect(attempt + 1), PAUSE);
    }
  }

  send(data) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(data);
    }
  }
}

// Why there is no connection: a server that forbids everything is that of a later run.
async function standing() {
  try {
    return (await fetch("guest")).status === 403 ? "locked" : "lost";
  } catch {
    return "lost";
  }
}
