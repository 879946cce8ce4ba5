// A browser as far as logins are concerned, around Node's own fetch and axios: a cookie jar shared by its tabs
// (tough-cookie, which knows Secure, SameSite, paths and the __Host- and __Secure- prefixes), and the headers a browser
// adds that no page can forge. In a real browser none of this file is needed.
"use strict";
const axios = require("axios");
const { CookieJar } = require("tough-cookie");

class Browser {
  constructor() {
    this.jar = new CookieJar(undefined, { prefixSecurity: "strict" });
    this.sent = []; // every request: method, path, cookies
    this.barrier = null;
  }

  // What a page of `from` sends to `url`: the cookies it may send, and where it comes from.
  async headers(from, method, url) {
    const same = from === url.origin;
    const cookie = await this.jar.getCookieString(url.href, { sameSiteContext: same ? "strict" : "none" });
    this.sent.push({ method, path: url.pathname, cookie });
    await this.barrier?.(url.pathname);
    const headers = { "sec-fetch-site": same ? "same-origin" : "cross-site" };
    if (cookie) headers.cookie = cookie;
    if (!["GET", "HEAD"].includes(method)) headers.origin = from;
    return headers;
  }

  async keep(lines, url) {
    for (const line of lines) await this.jar.setCookie(line, url.href);
  }

  // Holds `count` requests to `path` until all of them have read their cookies, then lets them go together.
  together(count, path) {
    let release;
    const released = new Promise((resolve) => (release = resolve));
    this.barrier = (asked) => {
      if (asked !== path || count === 0) return;
      count -= 1;
      if (count === 0) release();
      return released;
    };
  }

  // fetch, as a page of `from` has it.
  fetch(from) {
    return async (path, init = {}) => {
      const url = new URL(path, from);
      const headers = { ...init.headers, ...(await this.headers(from, init.method ?? "GET", url)) };
      const response = await fetch(url, { ...init, headers });
      await this.keep(response.headers.getSetCookie(), url);
      return response;
    };
  }

  // axios's way to the network, as a page of `from` has it.
  adapter(from) {
    const network = axios.getAdapter("http");
    return async (config) => {
      const url = new URL(axios.getUri(config), from);
      const headers = await this.headers(from, config.method.toUpperCase(), url);
      for (const [name, value] of Object.entries(headers)) config.headers.set(name, value);
      const keep = (response) => this.keep(response?.headers["set-cookie"] ?? [], url);
      try {
        const response = await network({ ...config, proxy: false });
        await keep(response);
        return response;
      } catch (error) {
        await keep(error.response);
        throw error;
      }
    };
  }

  // Requests to a path since the last call.
  count(path) {
    const found = this.sent.filter((one) => one.path === path);
    this.sent = [];
    return found;
  }
}

// The test that runs this moves the gateway's clock on; see tests/it/node_clients.rs.
const lines = require("node:readline").createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function later(what) {
  process.stdout.write(`${what}\n`);
  await lines.next();
}

function run(main) {
  main(process.argv[2]).then(
    () => {
      process.stdout.write("all good\n");
      process.exit(0);
    },
    (error) => {
      process.stderr.write(`${error.stack}\n`);
      process.exit(1);
    },
  );
}

module.exports = { Browser, later, run };
