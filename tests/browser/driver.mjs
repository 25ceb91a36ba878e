// A headless Chromium driven by lines of JSON: {"id", "cmd", …} in, {"id", "ok", "result" | "error"} out.
// Its only pages are the test's: what they complain of (console errors, refused loads) comes as events.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const browser = await chromium.launch({ executablePath: process.argv[2], args: [...FLAGS, ...process.argv.slice(3)] });
let context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
let page = await newPage();

async function newPage() {
  const made = await context.newPage();
  made.setDefaultTimeout(20_000);
  made.on("console", (line) => line.type() === "error" && print({ event: "console", text: line.text(), url: line.location().url }));
  made.on("pageerror", (error) => print({ event: "pageerror", text: String(error.stack ?? error) }));
  made.on("request", (request) => print({ event: "request", url: request.url() }));
  return made;
}

const commands = {
  // A context of its own: no storage of an earlier one, and its viewport and colours.
  fresh: async ({ width = 1280, height = 900, scheme = "light" }) => {
    await context.close();
    context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
    page = await newPage();
  },
  open: async ({ url }) => (await page.goto(url, { waitUntil: "load" }))?.status(),
  reload: async () => void (await page.reload({ waitUntil: "load" })),
  eval: ({ script }) => page.evaluate(script),
  // Not waitForFunction, which evaluates inside the page: the page's policy refuses that.
  wait: async ({ script, timeout = 20_000 }) => {
    for (const end = Date.now() + timeout; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
      const found = await page.evaluate(script);
      if (found) return found;
      if (Date.now() > end) throw new Error(`not within ${timeout} ms: ${script}`);
    }
  },
  click: ({ selector }) => page.click(selector),
  fill: ({ selector, value }) => page.fill(selector, value),
  select: ({ selector, value }) => page.selectOption(selector, value),
  press: ({ key }) => page.keyboard.press(key),
  text: ({ selector }) => page.innerText(selector),
  accessible: async ({ selector = "body" }) => page.locator(selector).ariaSnapshot(),
  screenshot: async ({ path, full = false }) => void (await page.screenshot({ path, fullPage: full })),
  stop: async () => void (await browser.close()),
};

print({ event: "ready", version: browser.version() });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, cmd, ...rest } = JSON.parse(line);
  try {
    if (!Object.hasOwn(commands, cmd)) throw new TypeError(`no command ${cmd}`);
    print({ id, ok: true, result: (await commands[cmd](rest)) ?? null });
  } catch (error) {
    print({ id, ok: false, error: String(error) });
  }
  if (cmd === "stop") process.exit(0);
}
await browser.close();
