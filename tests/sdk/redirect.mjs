// Downstream redirects to the broker's own API. Neither the official SDK nor fetch, which both follow
// redirects, may do there what downstream chose.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { client, given, run } from "./client.mjs";

const { fetch } = createRequire(`${given.packages}/`)("undici");
const sdk = client();
const acme = { unifiedApi: "crm", serviceId: "acme" };
const once = { retries: { strategy: "none" } };
const headers = {
  authorization: `Bearer ${given.apiKey}`,
  "x-apideck-app-id": given.application,
  "x-apideck-consumer-id": given.consumer,
};

async function stillThere() {
  const got = await sdk.vault.connections.get(acme);
  assert.equal(got.getConnectionResponse.data.enabled, true);
}

await run({
  async "the SDK"() {
    for (const [method, path] of given.redirects) {
      await sdk.proxy[method.toLowerCase()]({ ...acme, downstreamUrl: `${given.downstream}/redirect${path}` }, once).catch(() => {});
      await stillThere();
    }
  },
  async "fetch"() {
    for (const [method, path] of given.redirects) {
      const target = { ...headers, "x-apideck-service-id": "acme", "x-apideck-downstream-url": `${given.downstream}/redirect${path}` };
      const body = method === "DELETE" ? undefined : '{"enabled":false}';
      for (const [url, more] of [[`${given.serverURL}/proxy`, target], [`${given.serverURL}/acme/redirect${path}`, headers]]) {
        await fetch(url, { method, headers: more, body }).catch(() => {});
        await stillThere();
      }
    }
  },
});
