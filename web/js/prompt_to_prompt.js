/** Registers the pack's part of the canvas. Everything it does, it does to the ordinary inputs. */

import { app } from '../../../scripts/app.js'
import { colour } from './colours.js'
import { addCompare, showCompared } from './compare.js'
import { WORDED, addWords, refresh } from './edits.js'
import { places } from './graph.js'
import { addMaps, showMaps } from './maps.js'
import { addStyle, showOwn } from './page.js'
import { grow } from './sockets.js'
import { loadTexts } from './texts.js'
import { watch } from './watching.js'
import { addWindows, showWindows } from './windows.js'

let soon = () => {}

app.registerExtension({
  name: 'PromptToPrompt',
  async setup() {
    addStyle()
    await loadTexts()
    soon = watch(() => {
      const all = places(app.rootGraph ?? app.graph)
      colour()
      showOwn(all.map(({ node }) => node))
      for (const { node } of all) {
        const output = app.nodeOutputs?.[node.id]
        showCompared(node, output)
        showMaps(node, output)
      }
      for (const { node } of all) if (node.type === 'P2P_Controller') grow(node)
      showWindows(all)
      refresh(all)
    })
    soon()
  },
  nodeCreated(/** @type {any} */ node) {
    if (WORDED.includes(node.comfyClass)) addWords(node)
    if (node.comfyClass?.startsWith('P2P_')) addWindows(node)
    if (node.comfyClass === 'P2P_Compare') addCompare(node)
    if (node.comfyClass === 'P2P_AttentionMaps') addMaps(node)
    if (node.comfyClass?.startsWith('P2P_')) {
      const before = node.onConnectionsChange
      node.onConnectionsChange = function (/** @type {any[]} */ ...told) {
        before?.apply(this, told)
        soon()
      }
    }
    soon()
  },
  loadedGraphNode() {
    soon()
  },
  afterConfigureGraph() {
    soon()
  }
})
