// Tests the connections API through the SDK: each call with good and with bad input.
import assert from "node:assert/strict";
import { client, errors, given, refused, run, until } from "./client.mjs";

const sdk = client();
const { connections, consumers, validateConnection } = sdk.vault;
const acme = { unifiedApi: "crm", serviceId: "acme" };
const keyed = { unifiedApi: "crm", serviceId: "keyed" };
const machine = { unifiedApi: "crm", serviceId: "machine" };
const unknown = { unifiedApi: "crm", serviceId: "unknown" };

// credentials returns the tokens of a login as the SDK expects them.
function credentials(login) {
  return {
    accessToken: login.access_token,
    refreshToken: login.refresh_token,
    issuedAt: new Date(login.issued_at),
    expiresIn: login.expires_in,
  };
}

const importInto = (connector, connectionImportData) =>
  connections.imports({ ...connector, connectionImportData });

async function get(connector) {
  return (await connections.get(connector)).getConnectionResponse.data;
}

// isConnection checks that a connection has the members that the SDK declares, with their types.
function isConnection(conn, expected) {
  for (const member of ["id", "serviceId", "unifiedApi", "name", "state", "authType", "status", "integrationState"]) {
    assert.equal(typeof conn[member], "string", member);
  }
  for (const member of ["createdAt", "updatedAt", "credentialsExpireAt", "lastRefreshFailedAt"]) {
    assert.equal(typeof conn[member], "number", member);
  }
  assert.ok(Array.isArray(conn.formFields));
  assert.equal(typeof conn.settings, "object");
  for (const [member, value] of Object.entries(expected)) {
    assert.deepEqual(conn[member], value, member);
  }
}

await run({
  async "an OAuth token is imported"() {
    const before = Date.now();
    const got = await importInto(acme, {
      credentials: credentials(given.login),
      settings: { region: "eu", secret_note: "hush" },
      metadata: { account: { name: "Jane Ltd" } },
    });
    assert.equal(got.httpMeta.response.headers.get("x-token-broker-import"), "stored");
    const body = got.createConnectionResponse;
    assert.equal(body.statusCode, 200);
    assert.equal(body.status, "OK");
    isConnection(body.data, {
      id: "crm+acme", serviceId: "acme", unifiedApi: "crm", state: "callable", health: "ok", enabled: true,
      authType: "oauth2", oauthGrantType: "authorization_code", integrationState: "configured", status: "live",
      settings: { region: "eu", secret_note: "********" }, credentialsExpireAt: 0, lastRefreshFailedAt: 0,
    });
    assert.deepEqual(body.data.metadata.additionalProperties, { account: { name: "Jane Ltd" } });
    assert.ok(body.data.createdAt >= before - 1000 && body.data.createdAt <= Date.now() + 1000, "created_at is in milliseconds");
  },
  async "importing it again changes nothing"() {
    const got = await importInto(acme, { credentials: credentials(given.login) });
    assert.equal(got.httpMeta.response.headers.get("x-token-broker-import"), "kept");
    assert.deepEqual(got.createConnectionResponse.data.settings, { region: "eu", secret_note: "********" });
  },
  async "an API key is imported"() {
    const got = await importInto(keyed, { settings: { api_key: "the-key" }, metadata: null });
    isConnection(got.createConnectionResponse.data, { authType: "apiKey", state: "callable", settings: { api_key: "********" } });
    const [field] = got.createConnectionResponse.data.formFields;
    assert.equal(field.id, "api_key");
    assert.equal(field.type, "password");
    assert.equal(field.sensitive, true);
  },
  async "null is the same as a missing member"() {
    const got = await importInto(machine, {
      credentials: { accessToken: "old", refreshToken: null, issuedAt: null, expiresIn: null }, settings: null, metadata: null,
    });
    isConnection(got.createConnectionResponse.data, { oauthGrantType: "client_credentials" });
  },
  async "a bad import is refused"() {
    const good = credentials(given.login);
    await refused(importInto(acme, { credentials: { ...good, expiresIn: -1 } }), errors.UnprocessableResponse, 422, "InvalidStateError", "credentials.expires_in");
    await refused(importInto(acme, { credentials: { accessToken: "a\nb", refreshToken: "r" } }), errors.UnprocessableResponse, 422, "InvalidStateError", "credentials.access_token");
    await refused(importInto(keyed, { credentials: good }), errors.UnprocessableResponse, 422, "InvalidStateError", "credentials");
    await refused(importInto(unknown, { credentials: good }), errors.NotFoundResponse, 404, "ConnectorNotFoundError", "crm/unknown");
    await refused(importInto(acme, { metadata: { x: "x".repeat(1 << 20) } }), errors.APIError, 413, "RequestEntityTooLargeError");
  },

  async "a connection is returned"() {
    isConnection(await get(acme), { id: "crm+acme", state: "callable", health: "ok" });
  },
  async "a missing connection is not found"() {
    await refused(connections.get({ ...acme, consumerId: "a stranger" }), errors.NotFoundResponse, 404, "ConnectionNotFoundError", "crm/acme");
    await refused(connections.get(unknown), errors.NotFoundResponse, 404, "ConnectorNotFoundError", "crm/unknown");
  },
  async "an unauthenticated caller learns nothing"() {
    for (const caller of [client({ apiKey: "wrong" }), client({ appId: "another" })]) {
      for (const connector of [acme, unknown]) {
        const err = await refused(caller.vault.connections.get(connector), errors.UnauthorizedResponse, 401, "UnauthorizedError");
        assert.equal(typeof err.detail, "string");
      }
    }
    await refused(client({ apiKey: "wrong" }).vault.connections.list({}), errors.UnauthorizedResponse, 401, "UnauthorizedError");
    await refused(client({ apiKey: "wrong" }).vault.connections.imports({ ...acme, connectionImportData: {} }), errors.UnauthorizedResponse, 401, "UnauthorizedError");
    await refused(client({ apiKey: "wrong" }).vault.consumers.delete({ consumerId: given.consumer }), errors.UnauthorizedResponse, 401, "UnauthorizedError");
  },

  async "connections are listed, and those that there could be"() {
    const list = async (filter) => (await connections.list(filter)).getConnectionsResponse.data;
    const states = (conns) => Object.fromEntries(conns.map((conn) => [conn.id, conn.state]));
    const all = await list({});
    for (const conn of all) {
      isConnection(conn, {});
    }
    assert.deepEqual(states(all), {
      "accounting+quickbooks": "available", "crm+acme": "callable", "crm+keyed": "callable", "crm+machine": "callable",
    });
    assert.deepEqual(states(await list({ api: "accounting" })), { "accounting+quickbooks": "available" });
    assert.deepEqual(states(await list({ api: "nothing" })), {});
    assert.deepEqual(Object.keys(states(await list({ configured: true }))), ["crm+acme", "crm+keyed", "crm+machine"]);
    assert.deepEqual(Object.keys(states(await list({ configured: false }))), ["accounting+quickbooks"]);
    assert.deepEqual(states(await list({ configured: true, api: "accounting" })), {});
  },
  async "a list of nobody's is refused"() {
    await refused(client({ consumerId: undefined }).vault.connections.list({}), errors.BadRequestResponse, 400, "RequestHeadersValidationError", "x-apideck-consumer-id");
    await refused(client({ consumerId: "x".repeat(256) }).vault.connections.list({}), errors.BadRequestResponse, 400, "RequestHeadersValidationError", "x-apideck-consumer-id");
  },

  async "an update changes what it says"() {
    const got = await connections.update({
      ...acme,
      connection: {
        settings: { secret_note: "********", region: null, tier: "a" },
        metadata: { additionalProperties: { plan: "enterprise" } },
      },
    });
    const conn = got.updateConnectionResponse.data;
    isConnection(conn, { state: "callable", enabled: true, settings: { secret_note: "********", tier: "a" } });
    assert.deepEqual(conn.metadata.additionalProperties, { account: { name: "Jane Ltd" }, plan: "enterprise" });
    assert.deepEqual((await get(acme)).settings, conn.settings);
  },
  async "a connection is switched off and on"() {
    const enable = (enabled) => connections.update({ ...acme, connection: { enabled } });
    assert.equal((await enable(false)).updateConnectionResponse.data.enabled, false);
    await refused(validateConnection.state(acme), errors.APIError, 403, "ConnectorDisabledError");
    assert.equal((await enable(true)).updateConnectionResponse.data.enabled, true);
  },
  async "a bad update is refused"() {
    await refused(connections.update({ ...acme, consumerId: "a stranger", connection: { enabled: true } }), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
    await refused(connections.update({ ...unknown, connection: { enabled: true } }), errors.NotFoundResponse, 404, "ConnectorNotFoundError");
    await refused(connections.update({ ...acme, connection: { consentState: "denied" } }), errors.UnprocessableResponse, 422, "InvalidStateError", "consent_state");
  },

  async "a connection is validated"() {
    const got = (await validateConnection.state({ ...acme, requestBody: {} })).validateConnectionStateResponse;
    assert.deepEqual(got.data, { id: "crm+acme", state: "callable" });
    assert.equal((await validateConnection.state(keyed)).validateConnectionStateResponse.data.state, "callable");
    await refused(validateConnection.state({ ...acme, consumerId: "a stranger" }), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
  },
  async "a token is fetched"() {
    const got = (await connections.token({ ...machine, requestBody: {} })).getConnectionResponse;
    isConnection(got.data, { id: "crm+machine", state: "callable", health: "ok" });
    assert.ok(!JSON.stringify(got).includes("access_token"), "the token was answered");
    await refused(connections.token(acme), errors.UnprocessableResponse, 422, "InvalidStateError");
    await refused(connections.token({ ...machine, consumerId: "a stranger" }), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
  },
  async "a grant that is gone is told of"() {
    const dead = { ...acme, consumerId: "a dead one" };
    await importInto(dead, { credentials: { ...credentials(given.login), refreshToken: "no-good", issuedAt: new Date(0) } });
    const conn = await until("the refresh fails", async () => {
      const conn = await get(dead);
      return conn.state === "invalid" && conn;
    });
    assert.equal(conn.health, "needs_auth");
    assert.ok(conn.lastRefreshFailedAt > 0 && conn.lastRefreshFailedAt <= Date.now() + 1000, "last_refresh_failed_at is in milliseconds");
    const hours = (conn.credentialsExpireAt - conn.lastRefreshFailedAt) / 3_600_000;
    assert.ok(Math.abs(hours - 48) < 1, `credentials are kept for ${hours} h`);
    assert.equal((await validateConnection.state(dead)).validateConnectionStateResponse.data.state, "invalid");
  },

  async "a connection is deleted"() {
    const got = await connections.delete(acme);
    assert.equal(got.httpMeta.response.status, 204);
    await refused(connections.get(acme), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
    await refused(connections.delete(acme), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
    await refused(connections.delete(unknown), errors.NotFoundResponse, 404, "ConnectorNotFoundError");
  },
  async "a consumer is deleted with all connections"() {
    const leaving = "Jane & Sons/a b";
    await importInto({ ...keyed, consumerId: leaving }, { settings: { api_key: "the-key" } });
    const got = await consumers.delete({ consumerId: leaving });
    assert.equal(got.deleteConsumerResponse.data.consumerId, leaving);
    await refused(connections.get({ ...keyed, consumerId: leaving }), errors.NotFoundResponse, 404, "ConnectionNotFoundError");
    await refused(consumers.delete({ consumerId: "a stranger" }), errors.NotFoundResponse, 404, "EntityNotFoundError");
    assert.equal((await get(keyed)).state, "callable", "another consumer's connection is still there");
  },
});
