/*
 * A browser at the end of a pipe: reads one JSON object a line ({id, op, page, …}), and writes one for each.
 *
 *   node driver.mjs chromium|firefox PROGRAM PROFILE
 */
import {createRequire} from 'node:module';
import readline from 'node:readline';

const require = createRequire(process.env.NPM_MODULES + '/');
const puppeteer = require('puppeteer-core');
const [kind, executablePath, profile] = process.argv.slice(2);

const ARGUMENTS = {
  chromium: [
    '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--no-proxy-server', '--disable-component-update',
    '--disable-background-networking', '--disable-sync', ...(process.getuid() === 0 ? ['--no-sandbox'] : [])
  ],
  firefox: []
};

const browser = await puppeteer.launch({
  browser: kind === 'firefox' ? 'firefox' : 'chrome',
  executablePath,
  headless: true,
  args: ARGUMENTS[kind],
  userDataDir: kind === 'firefox' ? undefined : profile,
  extraPrefsFirefox: {'network.proxy.type': 0}
});
const pages = [];

const operations = {
  async open({url, before}) {
    const page = await browser.newPage();
    const said = [];
    page.on('console', (message) => {
      const url = message.location().url || '';
      if (['error', 'warn', 'warning'].includes(message.type()) && !url.endsWith('/favicon.ico')) {
        said.push(message.text() + ' ' + url);
      }
    });
    page.on('pageerror', (error) => said.push(String(error)));
    if (before) {
      await page.evaluateOnNewDocument(before);
    }
    await page.goto(url);
    return pages.push({page, said}) - 1;
  },
  goto: ({page, url}) => pages[page].page.goto(url).then(() => null),
  run: ({page, script}) => pages[page].page.evaluate(`(async () => { ${script} })()`),
  said: async ({page}) => pages[page].said,
  close: ({page}) => pages[page].page.close(),
  front: ({page}) => pages[page].page.bringToFront(),
  async command({page, method, parameters}) {
    const session = pages[page].session = pages[page].session || await pages[page].page.createCDPSession();
    return session.send(method, parameters);
  }
};

console.log(JSON.stringify({id: 0, result: await browser.version()}));
for await (const line of readline.createInterface({input: process.stdin})) {
  const asked = JSON.parse(line);
  operations[asked.op](asked).then(
    (result) => console.log(JSON.stringify({id: asked.id, result: result === undefined ? null : result})),
    (error) => console.log(JSON.stringify({id: asked.id, error: String(error)}))
  );
}
await browser.close();
