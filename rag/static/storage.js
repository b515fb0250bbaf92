// The browser's storage: the tab's and the lasting one. Either may be forbidden by the browser's settings, full, or
// broken, as after a crash of the browser.

class Shelf {
  constructor(open) {
    this.memory = new Map(); // in place of what is forbidden: it goes with the page
    try {
      this.storage = open();
      this.storage?.getItem("smallhold");
    } catch {
      this.storage = null;
    }
    this.refused = !this.storage; // whether what was put here last does not outlive the page
  }

  /** Return what is kept under a name, null where nothing is. */
  get(name) {
    return this.storage ? this.storage.getItem(name) : (this.memory.get(name) ?? null);
  }

  /** Keep a text. Where there is no room nothing changes: false. */
  set(name, text) {
    try {
      if (this.storage) this.storage.setItem(name, text);
      else this.memory.set(name, text);
      this.refused = !this.storage;
      return true;
    } catch {
      this.refused = true;
      return false;
    }
  }

  remove(name) {
    if (this.storage) this.storage.removeItem(name);
    else this.memory.delete(name);
  }
}

/** Until the tab is closed. */
export const tab = new Shelf(() => window.sessionStorage);

/** Until it is deleted. */
export const lasting = new Shelf(() => window.localStorage);
