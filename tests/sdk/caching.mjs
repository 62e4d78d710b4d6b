// undici's cache is in front of the client, once as a shared cache and once as a private one. Each
// answer must be the one for its consumer and its URL.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { given, run } from "./client.mjs";

const { Agent, fetch, interceptors } = createRequire(`${given.packages}/`)("undici");

const steps = {};
for (const type of ["shared", "private"]) {
  for (const policy of given.policies) {
    steps[`${type} cache, ${policy}`] = async () => {
      const dispatcher = new Agent().compose(interceptors.cache({ type }));
      const get = async (url, headers) => (await fetch(url, { dispatcher, headers })).text();
      for (const round of [1, 2]) {
        for (const consumer of given.consumers) {
          const caller = { authorization: `Bearer ${given.apiKey}`, "x-apideck-app-id": given.application, "x-apideck-consumer-id": consumer };
          for (const path of ["/A", "/B"]) {
            const below = `${path}?policy=${policy}`;
            const want = `${path} of ${consumer}`;
            assert.equal(await get(`${given.serverURL}/header${below}`, caller), want, `transport, round ${round}`);
            assert.equal(await get(`${given.serverURL}/open${below}`, { "x-apideck-consumer-id": consumer }), want, `transport without a key, round ${round}`);
            const target = { ...caller, "x-apideck-service-id": "stream", "x-apideck-downstream-url": given.downstream + below };
            assert.equal(await get(`${given.serverURL}/proxy`, target), want, `Proxy API, round ${round}`);
          }
        }
      }
      await dispatcher.close();
    };
  }
}
await run(steps);
