// The guest's screen, keyboard and pointer: noVNC in a surface that it fits.

import RFB from "./static/novnc/core/rfb.js";
import { Stream } from "./stream.js";

export class Screen {
  constructor(surface, guest, tell) {
    this.surface = surface;
    this.guest = guest;
    this.stream = new Stream("screen", (socket) => this.begin(socket), tell);
  }

  begin(socket) {
    const hadFocus = this.surface.contains(document.activeElement);
    this.rfb = new RFB(this.surface, socket, { shared: true });
    this.rfb.background = "transparent";
    this.rfb.scaleViewport = true;
    this.rfb.resizeSession = this.guest.follows;
    this.rfb.addEventListener("clipboard", ({ detail }) => this.copied(detail.text));
    this.rfb.addEventListener("connect", () => {
      const canvas = this.surface.querySelector("canvas");
      canvas.tabIndex = 0; // noVNC leaves it out of the keyboard's way around the page
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-describedby", "leave");
      canvas.setAttribute("aria-label", `Screen of ${this.guest.name}`);
      if (hadFocus) {
        this.focus();
      }
    });
  }

  focus() {
    this.rfb.focus();
  }

  // A browser lets only a page that is looked at write to the clipboard: otherwise it has to wait.
  async copied(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      addEventListener("focus", () => this.copied(text), { once: true });
    }
  }

  async paste() {
    this.rfb.clipboardPasteFrom(await navigator.clipboard.readText());
    this.focus();
  }

  pressResetKeys() {
    this.rfb.sendCtrlAltDel();
    this.focus();
  }

  // Every key that the browser can give away is the guest's: Alt+Tab, the system key and Escape, too.
  async fill(section) {
    await section.requestFullscreen();
    await navigator.keyboard?.lock?.();
    this.focus();
  }

  // noVNC lets go of all keys when the window loses the focus.
  releaseKeys() {
    window.dispatchEvent(new Event("blur"));
  }
}
