// What the node's processes use of the machine.
import { byId, el, rows } from "../dom.mjs";
import * as format from "../format.mjs";
import { Rate } from "../series.mjs";

const NAMES = { kernel: "logos-kernel", mapi: "logos-mapi", gateway: "logos-gateway" };

export class Processes {
  #processes = {};
  #gateway = format.NOTHING;
  /** @type {Map<string, Rate>} */ #cpu = new Map();

  about({ version }) {
    this.#gateway = version;
  }

  figures({ atMs, processes }) {
    this.#processes = processes;
    for (const [name, figures] of Object.entries(processes)) {
      if (!this.#cpu.has(name)) this.#cpu.set(name, new Rate(10));
      this.#cpu.get(name).look(atMs, figures.cpuSeconds);
    }
  }

  draw() {
    rows(
      byId("process-rows"), Object.entries(this.#processes), ([name]) => name,
      ([name, figures]) => {
        const cpu = this.#cpu.get(name)?.last ?? null;
        return [
          el("span", { class: "mono" }, NAMES[name] ?? name),
          figures.version ?? (name === "gateway" ? this.#gateway : format.NOTHING),
          cpu === null ? format.NOTHING : `${(cpu * 100).toFixed(1)} %`,
          format.bytes(figures.memoryBytes),
          format.count(figures.openFiles),
          format.count(figures.tasks),
        ];
      },
      "No process has answered yet.",
    );
  }
}
