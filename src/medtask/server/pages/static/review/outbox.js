"use strict";
/* Decisions that are not saved yet. They are in localStorage until the server has them, and are sent
   one after the other. The server recognises a decision that arrives twice by its key. */

const RETRY_MS = [500, 1000, 2000, 5000, 10000, 30000];

export class Outbox {
  /** `send(path, submission)` resolves to {status, content}; it rejects without a connection. */
  constructor(prefix, send, callbacks) {
    this.prefix = prefix;
    this.send = send;
    this.callbacks = callbacks;
    this.failures = 0;
    this.sending = null;
    this.entries = this.#read();
    window.addEventListener("online", () => this.flush());
    window.addEventListener("focus", () => this.flush());
    window.addEventListener("beforeunload", (event) => {
      if (this.waiting.length) event.preventDefault();
    });
  }

  /** Entries that will be sent; the others need a decision of the reader. */
  get waiting() {
    return this.entries.filter((entry) => !entry.problem);
  }

  get refused() {
    return this.entries.filter((entry) => entry.problem);
  }

  get itemIds() {
    return new Set(this.entries.flatMap((entry) => entry.submission.items.map((item) => item.id)));
  }

  add(path, submission, note) {
    const entry = { order: Date.now() + Math.random(), path, submission, note };
    this.#write(entry);
    this.entries.push(entry);
    this.flush();
    return entry;
  }

  /** Removes an entry that was not sent; false if it may have reached the server. */
  withdraw(entry) {
    if (!this.entries.includes(entry) || entry.sent) return false;
    this.remove(entry);
    return true;
  }

  remove(entry) {
    localStorage.removeItem(this.prefix + entry.submission.key);
    this.entries = this.entries.filter((other) => other !== entry);
    this.callbacks.changed();
  }

  async flush() {
    clearTimeout(this.timer);
    if (this.sending) return;
    const entry = this.waiting[0];
    this.callbacks.changed();
    if (!entry) return;
    this.sending = entry;
    entry.sent = true;
    this.#write(entry);
    let response;
    try {
      response = await this.send(entry.path, entry.submission);
    } catch {
      response = { status: 0 };
    }
    this.sending = null;
    this.#handle(entry, response);
  }

  #handle(entry, { status, content }) {
    const isTemporary = status === 0 || status === 401 || status === 408 || status === 429 || status >= 500;
    this.state = status === 401 ? "signed-out" : isTemporary ? "offline" : "online";
    if (isTemporary) {
      const pause = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
      this.failures += 1;
      this.timer = setTimeout(() => this.flush(), pause);
      this.callbacks.changed();
      return;
    }
    this.failures = 0;
    if (status < 300) {
      this.remove(entry);
      this.callbacks.saved(entry, content);
    } else {
      entry.problem = { status, ...content };
      this.#write(entry);
      this.callbacks.refused(entry);
    }
    this.flush();
  }

  #write(entry) {
    store(this.prefix + entry.submission.key, JSON.stringify(entry));
  }

  #read() {
    const found = [];
    for (let place = 0; place < localStorage.length; place += 1) {
      const name = localStorage.key(place);
      if (name.startsWith(this.prefix)) found.push(JSON.parse(localStorage.getItem(name)));
    }
    return found.sort((one, other) => one.order - other.order);
  }
}

/** Keeps a text in localStorage; one that is full or forbidden does not stop the reader. */
export function store(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    // The text is in memory, from which it is sent.
  }
}

export function makeKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
