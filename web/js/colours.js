/** Colours of the pack's socket types, told apart from the host's own in dark and light. */

import { app } from '../../../scripts/app.js'

/** @type {Record<string, string>} */
export const COLOURS = {
  P2P_EDIT: '#14b8a6',
  P2P_CONTROLLER: '#a3b818',
  P2P_RUN: '#c08457',
  P2P_INVERSION: '#6b8cff'
}

/** The page's variables that Nodes 2.0 draws sockets with; a palette takes none of them away. */
export const COLOUR_STYLE = `:root { ${Object.entries(COLOURS)
  .map(([type, colour]) => `--color-datatype-${type}: ${colour};`)
  .join(' ')} }`

/** Give the classic canvas the colours, again after a palette has set its own. */
export function colour() {
  const canvas = app.canvas
  if (!canvas) return
  const kinds = [canvas.default_connection_color_byType, canvas.constructor.link_type_colors]
  for (const colours of kinds) {
    if (!colours || colours.P2P_EDIT === COLOURS.P2P_EDIT) continue
    Object.assign(colours, COLOURS)
    canvas.setDirty(true, true)
  }
}
