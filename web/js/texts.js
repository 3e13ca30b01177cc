/** What the canvas says, in the language that is set: locales/<language>, as the host serves it. */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

/** @type {Record<string, any>} */
let own = {}

/** Read the language's texts; without them everything is said in English. */
export async function loadTexts() {
  try {
    const all = await (await api.fetchApi('/i18n')).json()
    own = all[app.extensionManager.setting.get('Comfy.Locale')] ?? {}
  } catch {
    own = {}
  }
}

/** An English text in the language, or as it is. @param {string} text */
export const t = (text) => own.promptToPrompt?.[text] ?? text

/** What a node's input is called. @param {string} type @param {string} name */
export const inputName = (type, name) => own.nodeDefs?.[type]?.inputs?.[name]?.name ?? name
