// The archive: how much there is, and how long queries and inserts take.
import { badge, byId, el, say } from "../dom.mjs";
import * as format from "../format.mjs";
import { Quantiles, Rate } from "../series.mjs";

export class Archive {
  #archive = null;
  #stored = new Rate(10);
  #queries = new Quantiles();
  #inserts = new Quantiles();

  figures({ atMs, archive }) {
    this.#archive = archive ?? null;
    if (!archive) return;
    this.#stored.look(atMs, archive.stored);
    this.#queries.look(atMs, archive.queries);
    this.#inserts.look(atMs, archive.inserts);
  }

  draw() {
    const archive = this.#archive;
    byId("archive").hidden = !archive;
    if (!archive) return;
    byId("archive-summary").replaceChildren(archive.ready ? badge("good", "ready") : badge("bad", "cannot be written"));
    const errors = Object.entries(archive.errors).filter(([, count]) => count).map(([type, count]) => `${format.count(count)} ${type}`);
    const facts = {
      Messages: format.count(archive.messages),
      Size: archive.bytes === undefined ? format.NOTHING : `about ${format.bytes(archive.bytes)}`,
      "Stored per second": format.decimal(this.#stored.last),
      "Waiting to be stored": format.count(archive.waiting),
      "Removed by retention": format.count(archive.removed),
      "Query times": times(this.#queries),
      "Insert times": times(this.#inserts),
      "Not stored or answered": errors.join(", ") || "nothing",
    };
    byId("archive-facts").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  }
}

const times = (quantiles) => {
  const { count, mean } = quantiles.summary();
  if (!count) return "none yet";
  return `half within ${format.duration(quantiles.at(0.5))}, 95 % within ${format.duration(quantiles.at(0.95))}, mean ${format.duration(mean)} (${format.count(count)})`;
};
