// The node's protocols, each with its state and the reason for it.
import { badge, byId, rows, say } from "../dom.mjs";
import * as format from "../format.mjs";

const ORDER = ["bad", "fair", "good", "off"];

export class Health {
  #health = null;

  health(health) {
    this.#health = health;
  }

  draw() {
    if (!this.#health) return;
    const protocols = this.#health.protocols.filter(({ state }) => state !== "NOT_MOUNTED");
    const absent = this.#health.protocols.filter(({ state }) => state === "NOT_MOUNTED").map(({ name }) => name);
    const rank = ({ state }) => ORDER.indexOf(format.grade(state));
    protocols.sort((one, other) => rank(one) - rank(other)); // what is wrong stands first
    rows(
      byId("protocols"), protocols, ({ name }) => name,
      ({ name, state, strength, description }) => [
        name, badge(format.grade(state), format.words(state)), strength ? format.count(strength) : format.NOTHING, description,
      ],
      "The kernel has not said anything of its protocols.",
    );
    say("not-mounted", absent.length ? `Not mounted: ${absent.join(", ")}.` : "");
    const wrong = protocols.filter(({ state }) => ["bad", "fair"].includes(format.grade(state)));
    const { state } = this.#health;
    say("health-summary", wrong.length
      ? `The node is ${format.words(state)}; look at ${wrong.map(({ name }) => name).join(", ")}.`
      : `The node is ${format.words(state)}; nothing is wrong.`);
  }
}
