"use strict";
/* Drafts: what is filled in and not decided. They are in localStorage until the server has them, so
   that a reader who continues on another machine finds them. A draft is never an answer. */

import { store } from "./outbox.js";

const PAUSE_MS = 700;

export class Drafts {
  /** `send(itemId, draft)` resolves to {status}; it rejects without a connection. */
  constructor(prefix, send) {
    this.prefix = prefix;
    this.send = send;
    window.addEventListener("online", () => this.flush());
  }

  /** The draft of an item: the one that the server does not have yet, else the server's. */
  find(item) {
    const text = localStorage.getItem(this.prefix + item.id);
    return text === null ? (item.draft ?? undefined) : JSON.parse(text);
  }

  keep(itemId, draft) {
    store(this.prefix + itemId, JSON.stringify(draft));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE_MS);
  }

  remove(itemId) {
    localStorage.removeItem(this.prefix + itemId);
  }

  /** Sends all drafts that the server does not have; those that fail are sent with the next one. */
  async flush() {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
    for (const name of names) {
      const text = localStorage.getItem(name);
      if (text === null) continue;
      let status = 0;
      try {
        ({ status } = await this.send(name.slice(this.prefix.length), JSON.parse(text)));
      } catch {
        return;
      }
      const isTemporary = status === 401 || status === 403 || status === 408 || status === 429 || status >= 500;
      if (!isTemporary && localStorage.getItem(name) === text) localStorage.removeItem(name);
    }
  }
}
