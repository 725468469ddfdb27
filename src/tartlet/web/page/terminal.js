// The guest's first serial port: xterm.js in a surface that it fills.

import { FitAddon } from "./static/xterm-fit/lib/addon-fit.mjs";
import { Terminal as XTerm } from "./static/xterm/lib/xterm.mjs";
import { Stream } from "./stream.js";

const DARK = { background: "#101013", foreground: "#e4e4e7", cursor: "#ff9b5e", selectionBackground: "#46342a" };
const LIGHT = { background: "#ffffff", foreground: "#1c1c1f", cursor: "#b93a06", selectionBackground: "#f1d9c9" };
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Terminal {
  constructor(surface, tell) {
    this.xterm = new XTerm({
      fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
      fontSize: 14,
      minimumContrastRatio: 4.5,
      scrollback: 10000,
    });
    const fit = new FitAddon();
    this.xterm.loadAddon(fit);
    this.xterm.open(surface);
    new ResizeObserver(() => surface.clientWidth && fit.fit()).observe(surface);
    this.xterm.textarea.setAttribute("aria-describedby", "leave");
    this.paint();
    dark.addEventListener("change", () => this.paint());
    this.stream = new Stream("terminal", (socket) => this.begin(socket), tell);
    this.xterm.onData((text) => this.stream.send(new TextEncoder().encode(text)));
    this.xterm.onBinary((text) => this.stream.send(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
  }

  // The server sends more when it hears that what it sent has been shown.
  begin(socket) {
    socket.addEventListener("message", ({ data }) => {
      this.xterm.write(new Uint8Array(data), () => {
        if (socket.readyState === WebSocket.OPEN) {
          socket.send(String(data.byteLength));
        }
      });
    });
  }

  paint() {
    this.xterm.options.theme = dark.matches ? DARK : LIGHT;
  }

  focus() {
    this.xterm.focus();
  }

  // A serial port has no size of its own: the guest is told in the way a person would.
  tellSize() {
    this.stream.send(new TextEncoder().encode(`stty rows ${this.xterm.rows} cols ${this.xterm.cols}\r`));
    this.focus();
  }
}
