// A page that holds no token at all: both are in cookies that no script can read, and fetch sends them by itself.
"use strict";
const assert = require("node:assert/strict");
const { Browser, later, run } = require("./browser");

// --- the front end ----------------------------------------------------------------------------------------------------

function tab(browser, origin) {
  const fetch = browser.fetch(origin);
  const post = (path, body) =>
    fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) });

  return {
    fetch,
    post,
    // Asks; when the access cookie is no longer good, refreshes and asks again.
    async ask(path, init) {
      const response = await fetch(path, init);
      if (response.status !== 401) return response;
      const refreshed = await post("/auth/refresh");
      return refreshed.ok ? fetch(path, init) : response;
    },
  };
}

// --- what must hold ---------------------------------------------------------------------------------------------------

run(async (origin) => {
  const browser = new Browser();
  const one = tab(browser, origin);
  const is = async (promise, status) => {
    const response = await promise;
    assert.equal(response.status, status, await response.clone().text());
    return response;
  };

  await is(one.ask("/page/a"), 401);
  const ann = { email: "ann@example.org", password: "seven-Tangled-kites-over-oslo-41", delivery: "cookie" };
  await is(one.post("/auth/register", ann), 201);
  const cookies = await browser.jar.getCookies(`${origin}/auth/refresh`);
  assert.deepEqual(cookies.map((cookie) => [cookie.key, cookie.httpOnly, cookie.secure]).sort(), [
    ["__Host-portcullis-access", true, true],
    ["__Secure-portcullis-device", true, true],
    ["__Secure-portcullis-refresh", true, true],
  ]);
  assert.equal(await (await is(one.ask("/page/a"), 200)).text(), "from the upstream");
  assert.equal((await (await is(one.fetch("/auth/me"), 200)).json()).email, ann.email);
  await is(one.ask("/page/a", { method: "POST", body: "x" }), 200);

  // A page of another site: the browser keeps the cookies back, and if it did not, the gateway would refuse.
  const evil = browser.fetch("https://evil.test");
  await is(evil(`${origin}/page/a`, { method: "POST", body: "x" }), 401);
  const cookie = await browser.jar.getCookieString(`${origin}/page/a`);
  const forced = { method: "POST", headers: { cookie, "sec-fetch-site": "cross-site", origin: "https://evil.test" } };
  await is(fetch(`${origin}/page/a`, forced), 403);
  await is(fetch(`${origin}/page/a`, { method: "POST", headers: { cookie } }), 403);

  // Two tabs find the token expired and refresh at once, with the same cookie. Both keep working.
  const two = tab(browser, origin);
  for (let round = 0; round < 3; round += 1) {
    await later("an hour");
    browser.count();
    browser.together(2, "/auth/refresh");
    await Promise.all([one, two].map((each) => is(each.ask("/page/a"), 200)));
    const raced = browser.count("/auth/refresh");
    assert.equal(raced.length, 2);
    assert.equal(raced[0].cookie, raced[1].cookie);
    for (const each of [two, one]) await is(each.fetch("/page/b"), 200);
  }

  // One leaves: the browser has no cookie left, and the old ones are worth nothing.
  const before = await browser.jar.getCookieString(`${origin}/page/a`);
  await is(two.post("/auth/logout"), 204);
  await later("a second"); // by then every gateway knows
  const left = (await browser.jar.getCookies(`${origin}/auth/refresh`)).map((cookie) => cookie.key);
  assert.deepEqual(left, ["__Secure-portcullis-device"], "what lets its owner in while others guess, and nothing else");
  await is(one.ask("/page/a"), 401);
  await is(fetch(`${origin}/page/a`, { headers: { cookie: before } }), 401);
});
