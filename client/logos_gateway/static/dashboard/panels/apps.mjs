// The apps of the Messaging API with their backlogs, and the sends that have no fate yet.
import { badge, byId, el, rows, say } from "../dom.mjs";
import * as format from "../format.mjs";

const GRADES = { parked: "off", attempted: "fair", retry: "bad", propagated: "good" };

export class Apps {
  #apps = null;

  apps(apps) {
    this.#apps = apps;
  }

  draw() {
    const known = this.#apps;
    if (!known) return;
    if (!known.apps) {
      say("apps-summary", "The Messaging API does not answer.");
      return;
    }
    rows(
      byId("app-rows"), known.apps, ({ streamId }) => streamId,
      (app) => [
        app.durable ? app.name : el("span", { class: "quiet" }, `${format.short(app.name)} (without a name)`),
        app.connected ? badge("good", "connected") : badge("off", `away for ${format.span(app.awayMs)}`),
        format.count(app.topics),
        format.count(app.backlog),
        format.bytes(app.backlogBytes),
        el("span", { class: "mono", title: `stream ${app.streamId}` }, `${app.acked} acknowledged of ${app.last}`),
        format.count(app.sends),
      ],
      "No app has connected yet.",
    );
    const away = known.apps.filter(({ connected }) => !connected).length;
    say("apps-summary", `${known.total} known, ${known.apps.length - away} connected${known.total > known.apps.length ? "; the longest backlogs are shown" : ""}`);
    const { sends } = known;
    const now = Date.now();
    rows(
      byId("send-rows"), sends.sends, ({ app, requestId }) => `${app} ${requestId}`,
      (send) => [
        send.app || el("span", { class: "quiet" }, "gone"),
        el("span", { class: "mono wrap", title: `request ${send.requestId}` }, send.contentTopic),
        badge(GRADES[send.state] ?? "off", send.state),
        format.span(now - send.acceptedNs / 1e6),
        format.count(send.attempts),
        send.cause || format.NOTHING,
      ],
      "Every send has its fate.",
    );
    say("sends-summary", sends.total > sends.sends.length ? `the ${sends.sends.length} oldest of ${sends.total}` : `${sends.total} without a fate, the oldest first`);
  }
}
