// A front end on axios, as they are written against FastAPI services: the access token in memory, the refresh token in a
// cookie, and an interceptor that refreshes on 401 and asks again.
"use strict";
const assert = require("node:assert/strict");
const axios = require("axios");
const { Browser, later, run } = require("./browser");

// --- the front end ----------------------------------------------------------------------------------------------------

function tab(browser, origin) {
  const api = axios.create({ baseURL: origin, adapter: browser.adapter(origin), withCredentials: true });
  let token = null;
  const bearer = () => `Bearer ${token}`;
  let refreshing = null;

  api.interceptors.request.use((config) => {
    if (token) config.headers.set("Authorization", bearer());
    return config;
  });
  api.interceptors.response.use(undefined, async (error) => {
    const { config, response } = error;
    if (response?.status !== 401 || config.asked || config.url.startsWith("/api/auth/")) throw error;
    // One refresh, however many requests found the token expired, and none when it is another by now.
    if (config.headers.Authorization === bearer()) {
      refreshing ??= refresh().finally(() => (refreshing = null));
    }
    await refreshing;
    return api({ ...config, asked: true });
  });

  // The old access token goes along as on every request; the gateway does not look at it.
  async function refresh() {
    token = (await api.post("/api/auth/refresh")).data.access_token;
  }

  return {
    api,
    refresh,
    async signup(body) {
      const { data } = await api.post("/api/auth/signup", body);
      token = data.access_token;
      return data;
    },
  };
}

// --- what must hold ---------------------------------------------------------------------------------------------------

run(async (origin) => {
  const browser = new Browser();
  const one = tab(browser, origin);
  const refused = async (promise, status, detail) => {
    const error = await promise.then(() => assert.fail("answered"), (error) => error);
    assert.equal(error.response?.status, status, error.stack);
    if (detail) assert.equal(error.response.data.detail, detail);
  };

  await refused(one.api.get("/ask/a"), 403, "Not authenticated");
  const signedUp = await one.signup({ email: "ann@example.org", password: "password" });
  assert.equal(signedUp.refresh_token, undefined);
  assert.equal(signedUp.user.email, "ann@example.org");
  await refused(one.signup({ email: "ann@example.org", password: "password" }), 400, "Email already registered");
  assert.equal((await one.api.get("/ask/a")).data, "from the upstream");

  // Four requests find the token expired: one refresh, and all are answered.
  await later("an hour");
  browser.count();
  const answers = await Promise.all([1, 2, 3, 4].map((n) => one.api.get(`/ask/${n}`)));
  assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 200]);
  assert.equal(browser.count("/api/auth/refresh").length, 1);

  // A second tab, which has no token yet, gets one from the cookie.
  const two = tab(browser, origin);
  await two.refresh();
  assert.equal((await two.api.get("/ask/b")).status, 200);

  // Both tabs refresh at once, with the same cookie.
  for (let round = 0; round < 3; round += 1) {
    await later("an hour");
    browser.count();
    browser.together(2, "/api/auth/refresh");
    const both = await Promise.all([one.api.get("/ask/a"), two.api.get("/ask/b")]);
    assert.deepEqual(both.map((answer) => answer.status), [200, 200]);
    const raced = browser.count("/api/auth/refresh");
    assert.equal(raced.length, 2);
    assert.equal(raced[0].cookie, raced[1].cookie);
    assert.match(raced[0].cookie, /__Secure-portcullis-refresh=/);
    // Both keep working, with the token they got.
    for (const each of [one, two, one]) assert.equal((await each.api.get("/ask/c")).status, 200);
    assert.equal(browser.count("/api/auth/refresh").length, 0);
  }

  // One leaves: the other finds out, and is not let in by anything it still has.
  await one.api.post("/api/auth/logout");
  await later("a second"); // by then every gateway knows
  await refused(two.api.get("/ask/a"), 400);
  await refused(two.api.get("/api/auth/me"), 401, "Could not validate credentials");
});
