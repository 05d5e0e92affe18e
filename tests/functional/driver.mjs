/*
 * A browser for all processes of a run of the tests. It listens on a socket that it is given. On each connection it
 * reads one JSON object a line ({id, op, page, …}), and writes one for each. It ends with the last connection.
 *
 *   node driver.mjs chromium|firefox PROGRAM HOME DESCRIPTOR
 */
import fs from 'node:fs';
import {createRequire} from 'node:module';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';

const require = createRequire(process.env.NPM_MODULES + '/');
const puppeteer = require('puppeteer-core');
const [kind, executablePath, home, descriptor] = process.argv.slice(2);

const ARGUMENTS = {
  chromium: [
    '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--no-proxy-server', '--disable-component-update',
    '--disable-background-networking', '--disable-sync', '--disable-smooth-scrolling', '--num-raster-threads=1',
    '--force-prefers-reduced-motion', '--disable-features=SpareRendererForSitePerProcess',
    '--host-resolver-rules=MAP example.com 127.0.0.1',
    ...(process.getuid() === 0 ? ['--no-sandbox'] : [])
  ],
  firefox: []
};

const browser = await puppeteer.launch({
  browser: kind === 'firefox' ? 'firefox' : 'chrome',
  executablePath,
  headless: true,
  networkEnabled: false, // events of each request, which nobody reads
  issuesEnabled: false,
  timeout: 120000, // to start, where much else runs
  args: ARGUMENTS[kind],
  userDataDir: kind === 'firefox' ? undefined : path.join(home, 'profile'),
  extraPrefsFirefox: {
    'network.proxy.type': 0,
    // What costs much of a processor, and is no part of a page: processes ahead of need, sixty pictures a second. Tests
    // that run at the same time need processes of their own.
    'fission.autostart': false, 'dom.ipc.processCount': 4, 'dom.ipc.processPrelaunch.enabled': false,
    'layout.frame_rate': 20, 'general.smoothScroll': false,
    // A tab that another process opens hides ours: a hidden tab's timers keep their time.
    'dom.min_background_timeout_value': 4, 'dom.timeout.enable_budget_timer_throttling': false
  }
});
const pages = [], free = [];

/** A page in a window with storage of its own. Windows are used again, as a new one costs a second of a processor. */
async function windowOfItsOwn() {
  const used = free.pop();
  if (used) {
    await used.page.bringToFront();
    return used;
  }
  const context = await browser.createBrowserContext(), page = await context.newPage({type: 'window'});
  page.setDefaultNavigationTimeout(120000);
  return {context, page};
}

const operations = {
  async open({url, before, alone, beside}) {
    const home = beside === undefined ? browser : pages[beside].page.browserContext();
    const shown = alone ? await windowOfItsOwn() : {page: await home.newPage()}, {page} = shown, said = [];
    page.on('console', (message) => {
      const url = message.location().url || '';
      if (['error', 'warn', 'warning'].includes(message.type()) && !url.endsWith('/favicon.ico')) {
        said.push(message.text() + ' ' + url);
      }
    });
    page.on('pageerror', (error) => said.push(String(error)));
    if (before) {
      // On its way from one page to another, Firefox has an empty document, which may use no storage.
      shown.before = await page.evaluateOnNewDocument(`if (self.origin !== 'null') { ${before} }`);
    }
    await page.goto(url);
    return pages.push({...shown, said}) - 1;
  },
  /** Leave a window for another page: of another origin, as the storage stays. */
  async release({page: number}) {
    const {page, context, session, before} = pages[number];
    if (page.isClosed()) {
      return;
    }
    page.removeAllListeners('console');
    page.removeAllListeners('pageerror');
    if (session) {
      await session.detach();
    }
    if (before) {
      await page.removeScriptToEvaluateOnNewDocument(before.identifier);
    }
    await page.goto('about:blank');
    free.push({page, context});
  },
  goto: ({page, url}) => pages[page].page.goto(url).then(() => null),
  run: ({page, script, frame = 0}) => pages[page].page.frames()[frame].evaluate(`(async () => { ${script} })()`),
  said: async ({page}) => pages[page].said,
  close: ({page}) => (pages[page].context || pages[page].page).close(),
  reload: ({page}) => pages[page].page.reload().then(() => null),
  async press({page, keys}) {
    const keyboard = pages[page].page.keyboard, key = keys.pop();
    for (const held of keys) {
      await keyboard.down(held);
    }
    await keyboard.press(key);
    for (const held of keys) {
      await keyboard.up(held);
    }
  },
  async follow({page, keys}) {
    await Promise.all([pages[page].page.waitForNavigation(), operations.press({page, keys})]);
  },
  write: ({page, text}) => pages[page].page.keyboard.type(text),
  size: ({page, width, height}) => pages[page].page.setViewport({width, height, deviceScaleFactor: 2}),
  save: ({page, path}) => pages[page].page.screenshot({path}).then(() => null),
  front: ({page}) => pages[page].page.bringToFront(),
  async command({page, method, parameters}) {
    const session = pages[page].session = pages[page].session || await pages[page].page.createCDPSession();
    return session.send(method, parameters);
  }
};

/** Answer a process until it ends; then close the pages that it has left open. */
async function serve(connection) {
  const answer = (what) => connection.writable && connection.write(JSON.stringify(what) + '\n'), opened = [];
  connection.on('error', () => null); // it ends all the same
  for await (const line of readline.createInterface({input: connection})) {
    const asked = JSON.parse(line);
    operations[asked.op](asked).then(
      (result) => {
        if (asked.op === 'open') {
          opened.push(result);
        }
        answer({id: asked.id, result: result === undefined ? null : result});
      },
      (error) => answer({id: asked.id, error: String(error)})
    );
  }
  await Promise.allSettled(opened.map((page) => pages[page] && operations.close({page})));
}

let connections = 0;
const server = net.createServer(async (connection) => {
  connections += 1;
  await serve(connection);
  connections -= 1;
  if (!connections) {
    server.close();
    setTimeout(() => browser.process().kill('SIGKILL'), 15000).unref();
    await browser.close();
    fs.rmSync(home, {recursive: true, force: true, maxRetries: 5});
    process.exit();
  }
});
server.listen({fd: Number(descriptor)});
