// Calls to the server. A call that may be repeated is repeated until it is answered, so that a restart loses nothing.

import { t } from "./words.js";

const csrf = document.querySelector("meta[name=csrf]").content;
/** Where the app is: "" or the path of the project, among several. */
export const root = document.querySelector("meta[name=root]").content;

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function once(method, path, body) {
  const response = await fetch(root + path, {
    method,
    headers: { "X-CSRF-Token": csrf, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const data = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new ApiError(response.status, data.detail);
  return data;
}

/**
 * Call the server. With `onTrouble` the call is repeated while the network or the server fails. `onTrouble` is called
 * with the problem each time, and with null when the call works again.
 */
export async function call(method, path, body, onTrouble = null) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const data = await once(method, path, body);
      if (wait > 500) onTrouble?.(null);
      return data;
    } catch (error) {
      const passing = !(error instanceof ApiError) || error.status >= 500 || error.status === 429;
      if (!passing || onTrouble === null) {
        if (wait > 500) onTrouble?.(null);
        throw error;
      }
      onTrouble(error instanceof ApiError ? error.message : t("no_connection"));
      await pause(wait);
    }
  }
}

/** Make a key that no other answer has. (Pages over plain HTTP, as on a phone in the LAN, lack crypto.randomUUID.) */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
