// Tests the Proxy API through the SDK: each method with good and with bad input.
import assert from "node:assert/strict";
import { client, errors, given, refused, run, until } from "./client.mjs";

const sdk = client();
const acme = { unifiedApi: "crm", serviceId: "acme" };
const to = (path) => ({ ...acme, downstreamUrl: given.downstream + path });
const once = { retries: { strategy: "none" } };
const login = {
  accessToken: given.login.access_token,
  refreshToken: given.login.refresh_token,
  issuedAt: new Date(given.login.issued_at),
  expiresIn: given.login.expires_in,
};

const importInto = (connector, connectionImportData) =>
  sdk.vault.connections.imports({ ...connector, connectionImportData });

// fromDownstream checks that the promise fails with an error response of downstream.
async function fromDownstream(promise, status) {
  let err;
  try {
    await promise;
  } catch (e) {
    err = e;
  }
  assert.equal(err?.httpMeta?.response.status, status, `${err?.stack}`);
  assert.equal(err.httpMeta.response.headers.get("x-apideck-downstream-error"), "true");
  assert.equal(err.httpMeta.response.headers.get("x-token-broker-error"), null);
  return err;
}

await run({
  async "a call has the connection's credential"() {
    await importInto(acme, { credentials: login, settings: { account: "a b", slashed: "a/b" } });
    const got = await sdk.proxy.get(to("/contacts"));
    assert.deepEqual(got.responseJson, { customer: given.consumer, generation: 0, method: "GET", path: "/contacts" });
    assert.match(got.httpMeta.response.headers.get("x-apideck-request-id"), /^[0-9a-f-]{36}$/);
    assert.equal(got.httpMeta.response.headers.get("x-apideck-downstream-error"), null);
  },
  async "a setting is filled in, as one segment"() {
    const got = await sdk.proxy.get(to("/echo/{account}?q=1"));
    assert.equal(got.responseJson.target, "/echo/a%20b?q=1");
    await refused(sdk.proxy.get(to("/echo/{slashed}")), errors.APIError, 422, "InvalidStateError", "slashed");
  },
  async "each method is forwarded, with its body"() {
    for (const method of ["get", "options", "delete"]) {
      const got = await sdk.proxy[method](to("/echo"));
      assert.deepEqual(got.responseJson, { method: method.toUpperCase(), target: "/echo", body: "", authorization: "Bearer of the connection" });
    }
    for (const method of ["post", "put", "patch"]) {
      const body = JSON.stringify({ name: "Jane & Söhne", method });
      const got = await sdk.proxy[method]({ ...to("/echo"), requestBody: new TextEncoder().encode(body) });
      assert.deepEqual(got.responseJson, { method: method.toUpperCase(), target: "/echo", body, authorization: "Bearer of the connection" });
    }
  },
  async "a body of any type is returned unchanged"() {
    assert.equal((await sdk.proxy.get(to("/csv"))).responseCsv, "a;b\n1;2\n");
    const chunks = [];
    for await (const chunk of (await sdk.proxy.get(to("/binary"))).responseBinary) {
      chunks.push(...chunk);
    }
    assert.deepEqual(chunks, [0, 255, 1, 254]);
  },
  async "a caller's own authorization replaces the connection's"() {
    const got = await sdk.proxy.get({ ...to("/echo"), downstreamAuthorization: "Bearer of the caller" });
    assert.equal(got.responseJson.authorization, "Bearer of the caller");
  },

  async "an empty control header counts as unset"() {
    const got = await sdk.proxy.get({ ...to("/contacts"), serviceId: "", unifiedApi: "", downstreamAuthorization: "" });
    assert.equal(got.responseJson.customer, given.consumer);
    await refused(sdk.proxy.get({ ...acme, downstreamUrl: "" }), errors.APIError, 400, "RequestHeadersValidationError", "x-apideck-downstream-url");
  },
  async "if several connections match, the caller must name one"() {
    await importInto({ unifiedApi: "crm", serviceId: "keyed" }, { settings: { api_key: "the-key" } });
    const err = await refused(sdk.proxy.get({ ...to("/contacts"), serviceId: "", unifiedApi: "" }), errors.APIError, 400, "RequestHeadersValidationError", "crm/acme, crm/keyed");
    assert.equal(err.httpMeta.response.headers.get("x-apideck-downstream-error"), "false");
    assert.ok(err.httpMeta.response.headers.get("x-apideck-request-id"));
  },

  async "a credential is sent to no other host"() {
    await refused(sdk.proxy.get({ ...acme, downstreamUrl: "https://example.com/contacts" }), errors.APIError, 403, "ForbiddenError");
    await refused(sdk.proxy.get({ ...acme, downstreamUrl: "no URL" }), errors.APIError, 400, "RequestHeadersValidationError", "x-apideck-downstream-url");
  },
  async "a missing connection is not found"() {
    await refused(sdk.proxy.get({ ...to("/contacts"), consumerId: "a stranger" }), errors.APIError, 404, "ConnectionNotFoundError");
    await refused(sdk.proxy.get({ ...to("/contacts"), serviceId: "unknown" }), errors.APIError, 404, "ConnectorNotFoundError");
  },
  async "an unauthenticated caller learns nothing"() {
    for (const method of ["get", "options", "post", "put", "patch", "delete"]) {
      const err = await refused(client({ apiKey: "wrong" }).proxy[method](to("/contacts")), errors.Unauthorized, 401, "UnauthorizedError");
      assert.equal(typeof err.detail, "string");
    }
  },

  async "an error of downstream is returned unchanged"() {
    const err = await fromDownstream(sdk.proxy.post(to("/fails/422")), 422);
    assert.deepEqual(JSON.parse(err.httpMeta.body), { reason: "downstream says so" });
    await fromDownstream(sdk.proxy.get(to("/fails/500"), once), 500);
  },
  async "rate limits are returned in one form"() {
    const { headers } = (await fromDownstream(sdk.proxy.get(to("/fails/429")), 429)).httpMeta.response;
    assert.equal(headers.get("x-downstream-ratelimit-limit"), "100");
    assert.equal(headers.get("x-downstream-ratelimit-remaining"), "0");
    const seconds = Number(headers.get("x-downstream-ratelimit-reset")) - Date.now() / 1000;
    assert.ok(seconds > 0 && seconds < 31, `the window ends in ${seconds} s`);
  },
  async "a slow downstream is a timeout"() {
    await refused(sdk.proxy.get({ ...to("/hangs"), timeout: 200 }, once), errors.APIError, 504, "ProxyTimedOutError", "timed out");
  },
  async "a dead grant is a 401 with the reason"() {
    const dead = { ...acme, consumerId: "a dead one" };
    await importInto(dead, { credentials: { ...login, refreshToken: "no-good", issuedAt: new Date(0) } });
    const call = { ...dead, downstreamUrl: `${given.downstream}/contacts` };
    const err = await refused(sdk.proxy.get(call), errors.Unauthorized, 401, "UnauthorizedError");
    assert.equal(err.detail.type, "refresh_token_connector_error");
    assert.ok(err.detail.message.includes("import"), err.detail.message);
    assert.equal(err.detail.debug.code, "invalid_grant");
    const hours = (err.detail.debug.credentialsExpireAtMs - Date.now()) / 3_600_000;
    assert.ok(hours > 47 && hours <= 48, `credentials_expire_at_ms is ${hours} h away`);
  },
  async "a 401 of downstream leads to a new token and one replay"() {
    const err = await fromDownstream(sdk.proxy.get(to("/fails/401")), 401);
    assert.ok(err instanceof errors.Unauthorized, err.name);
    const generation = await until("the token is replaced", async () => (await sdk.proxy.get(to("/contacts"))).responseJson.generation);
    assert.equal(generation, 1);
  },
});
