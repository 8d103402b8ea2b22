// A browser that logs in at the provider, agrees, and prints where it ended: `browser.mjs URL NAME [USER_CODE]`.
import { chromium } from "playwright-core";

const [url, name, code] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  // The address that is pasted need not open: it is known once the browser asks for it.
  const asked = new Promise((resolve) =>
    page.on("request", (request) => {
      const { pathname } = new URL(request.url());
      if (request.isNavigationRequest() && pathname === "/callback") resolve(request.url());
    }),
  );
  await page.goto(url);
  if (code) {
    const entry = page.locator("input[name=user_code]");
    if (await entry.count()) {
      await entry.fill(code);
      await page.locator("button[type=submit]").first().click();
    }
    const confirm = page.locator("button[autofocus], button[type=submit]").first();
    if (!(await page.locator("input[name=login]").count())) await confirm.click();
  }
  await page.locator("input[name=login]").fill(name);
  await page.locator("input[name=password]").fill("whatever");
  await page.locator("button[type=submit]").first().click();
  await page.getByText("Continue", { exact: false }).last().waitFor();
  await page.locator("button[type=submit]").last().click();
  if (code) {
    await page.waitForURL(/device/);
    console.log(JSON.stringify({ text: await page.locator("body").innerText() }));
  } else {
    const landed = await asked;
    await page.waitForLoadState().catch(() => {});
    const text = await page.locator("body").innerText().catch(() => "");
    console.log(JSON.stringify({ landed, text }));
  }
} finally {
  await browser.close();
}
