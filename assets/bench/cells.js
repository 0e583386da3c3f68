// Side by side: one figure for each column.
function cellNode(key) {
  const found = every('.cell').find(node => node.dataset.key === key);
  if (found) return found;
  const figure = make('figure', 'cell', $('.cells'));
  figure.dataset.key = key;
  const frame = make('div', 'frame', figure);
  for (const name of ['old', 'new']) make('img', name, frame).draggable = false;
  Object.assign(make('video', '', frame), { muted: true, playsInline: true, preload: 'auto' });
  make('div', 'note', frame);
  make('div', 'tag', frame);
  const progress = make('div', 'progress', frame);
  progress.setAttribute('role', 'progressbar');
  make('i', '', progress);
  const caption = make('figcaption', 'cap', figure);
  const head = make('div', 'head', caption);
  make('b', '', head);
  make('span', 'set', head);
  make('span', 'cost', head);
  make('div', 'meters', caption);
  const small = make('div', 'small', caption);
  make('span', 'state', small);
  make('button', 'unpin', small, 'Remove');
  make('a', 'save', small);
  $('.unpin', figure).addEventListener('click', () => unpin(figure.dataset.key));
  listen(frame);
  return figure;
}

function drawCell(told) {
  const node = cellNode(told.key);
  const pinned = pins.includes(told);
  const old = pinned ? null : finished.get(told.key);
  // a column that will be the same again is not taken away in between
  const alike = old && !changed(told.made, old.made).length;
  const cell =
    alike && BUSY.includes(told.state)
      ? { ...old, state: 'done' }
      : alike && told.state === 'done' && !told.meters.length
        ? { ...told, meters: old.meters, cost: told.cost || old.cost }
        : told;
  node.className = [
    'cell',
    cell.state,
    cell.key.includes('nag') ? 'nag' : '',
    pinned ? 'pinned' : '',
    cell === told ? '' : 'again',
  ].join(' ');
  drawCaption(node, cell, old);
  const image = $('img.new', node);
  const under = $('img.old', node);
  const url = shownPicture(cell);
  image.alt = describe(cell);
  setSource(image, url);
  setSource($('video', node), film(cell));
  image.classList.toggle('behind', !!film(cell) && $('video', node).readyState >= 2);
  const kept = !url && old ? source(old) : '';
  setSource(under, kept);
  under.alt = kept ? describe(old) + ', from the run before' : '';
  under.classList.toggle('faint', !!kept && changed(cell.made, old.made).length > 0);
  $('.note', node).textContent = cell.reason || (url || kept ? '' : noteOf(cell));
  drawProgress($('.progress', node), cell);
  mark(node, cell, kept);
}

function shownPicture(cell) {
  const kept = previews.get(cell.key);
  return (view.step && kept && kept[Math.min(view.step, kept.length) - 1]) || source(cell);
}

function noteOf(cell) {
  if (cell.state === 'stopped')
    return cell.step
      ? 'Stopped at step ' + cell.step + ' of ' + cell.total
      : 'Stopped before it began';
  return (
    {
      queued: 'Waiting',
      loading: 'Loading the model',
      step: 'First step',
      decoding: 'Decoding',
      failed: 'Failed',
    }[cell.state] || ''
  );
}

function describe(cell) {
  const read = (cell.meters || []).map(row => row.name + ' ' + row.text).join(', ');
  return [cell.name, ...cell.set.map(part => part.slice(1).join(' ')), STATES[cell.state], read]
    .filter(Boolean)
    .join(', ');
}

function drawCaption(node, cell, old) {
  $('.head b', node).textContent = cell.name;
  drawSet($('.set', node), cell, old);
  const cost = $('.cost', node);
  cost.replaceChildren();
  if (cell.cost) {
    make('strong', '', cost, cell.cost.text);
    make('span', 'unit', cost, ' ' + cell.cost.unit);
  }
  if (cell.peak) {
    const peak = make('span', 'peak', cost, (cell.cost ? ' · ' : '') + cell.peak);
    peak.title = 'GPU memory held at the most, the weights among it';
  }
  drawMeters($('.meters', node), cell);
  $('.state', node).textContent = $('.state', node).title = stateOf(cell);
  const save = $('.save', node);
  const url = cell.state === 'done' ? film(cell) || source(cell) : '';
  save.textContent = url ? 'Save ' + (film(cell) ? 'MP4' : 'PNG') : '';
  if (url) {
    save.href = url;
    save.download = cell.file + (film(cell) ? '.mp4' : '.png');
  } else save.removeAttribute('href');
  save.setAttribute('aria-label', save.textContent + ' of ' + cell.name);
}

// "scale 10 · tau 2 · alpha .85 → .3": what moved since the picture before is said with both
// values.
function drawSet(node, cell, old) {
  node.replaceChildren();
  const last = cell.state === 'done' ? former.get(cell.key) : old;
  const words = ['prompt', 'negative_prompt', 'seed'];
  const alike = last && cell.made && words.every(name => same(last.made[name], cell.made[name]));
  const before = new Map((alike ? last.set : []).map(part => [part[0], part[2]]));
  cell.set.forEach((part, i) => {
    if (i) node.append(' · ');
    const moved = before.has(part[0]) && before.get(part[0]) !== part[2];
    make(
      moved ? 'strong' : 'span',
      '',
      node,
      [part[1], moved ? before.get(part[0]) + ' → ' + part[2] : part[2]].join(' ').trim(),
    );
  });
  node.title = node.textContent;
}

function drawMeters(node, cell) {
  const rows = cell.meters || [];
  while (node.children.length > rows.length) node.lastChild.remove();
  rows.forEach((row, i) => {
    const line = node.children[i] || make('div', '', node);
    if (!line.children.length) {
      make('span', '', line);
      make('i', '', make('i', 'track', line));
      $('.track', line).setAttribute('role', 'meter');
      const text = make('em', '', line);
      sign('', text);
      make('span', '', text);
    }
    line.className = 'meter ' + (row.outcome || '');
    line.title = 'How sure a small classifier is that this picture shows: ' + row.name;
    if ((row.changed || []).length) line.title += '; changed unasked: ' + row.changed.join(', ');
    $('span', line).textContent = row.name;
    $('.track', line).setAttribute('aria-label', row.name);
    $('.track', line).setAttribute('aria-valuenow', Math.round(100 * row.share));
    $('.track i', line).style.width = 100 * row.share + '%';
    $('em span', line).textContent = row.text;
  });
}

function stateOf(cell) {
  if (cell.pinnedAs) return cell.pinnedAs + ' · ' + cell.note;
  if (cell.state === 'done') return (value().sample ? 'sample · ' : '') + cell.note;
  if (cell.state === 'step') return 'step ' + cell.step + ' of ' + cell.total + left(cell);
  if (cell.state === 'stopped')
    return 'stopped' + (cell.step ? ' at step ' + cell.step + ' of ' + cell.total : '');
  return STATES[cell.state] || '';
}

// The time that is left, from the steps so far of this column.
const begun = new Map();
function left(cell) {
  const first = begun.get(cell.key);
  if (!first || first.run !== value().run || first.step >= cell.step) {
    begun.set(cell.key, { run: value().run, step: cell.step, at: performance.now() });
    return '';
  }
  const each = (performance.now() - first.at) / 1000 / (cell.step - first.step);
  const rest = each * (cell.total - cell.step);
  return rest < 0.3
    ? ''
    : ' · ' +
        (each < 1 ? (1 / each).toFixed(1) + ' steps a second' : each.toFixed(1) + ' s a step') +
        ' · ' +
        rest.toFixed(rest < 10 ? 1 : 0) +
        ' s left';
}

function drawProgress(node, cell) {
  const running = BUSY.includes(cell.state) && cell.state !== 'queued';
  node.hidden = !running;
  node.setAttribute('aria-label', 'Steps of ' + cell.name);
  node.setAttribute('aria-valuemax', cell.total);
  node.setAttribute('aria-valuenow', cell.step);
  node.classList.toggle('unsure', cell.state !== 'step');
  $('i', node).style.width =
    (cell.state === 'step' ? (100 * cell.step) / Math.max(1, cell.total) : 100) + '%';
}

// What the picture is not: this one's settings, finished, or of this run.
function mark(node, cell, kept) {
  const tag = $('.tag', node);
  const old = finished.get(cell.key);
  const moved =
    cell.state === 'done' && fields && !pins.includes(cell) && !busy()
      ? changed(cell.made, fields)
      : [];
  node.classList.toggle('stale', moved.length > 0);
  tag.textContent = moved.length
    ? 'Settings changed: Compare'
    : kept
      ? changed(cell.made, old.made).length
        ? 'Shown faint: the picture before'
        : ''
      : cell.state !== 'done' && source(cell)
        ? (cell.state === 'stopped' ? 'Stopped at step ' : 'Preview, step ') + cell.step
        : '';
  tag.hidden = !tag.textContent;
}

function drawCells() {
  const shown = columns();
  const keys = shown.map(cell => cell.key);
  const node = $('.cells');
  element.style.setProperty('--n', Math.max(1, shown.length));
  node.classList.toggle('many', shown.length > 3);
  element.style.setProperty('--aspect', value().aspect || 1);
  every('.cell').forEach(cell => {
    if (!keys.includes(cell.dataset.key)) cell.remove();
  });
  shown.forEach((cell, i) => {
    drawCell(cell);
    const figure = cellNode(cell.key);
    if (node.children[i] !== figure) node.insertBefore(figure, node.children[i] || null);
  });
  const add = $('.add') || addButton();
  if (node.lastChild !== add) node.append(add);
  add.hidden = !shown.length;
  drawWells(node, shown.length ? [] : (fields && fields.guidance) || ['none', 'cfg', 'nag']);
}

// A model without a sample: its columns by name, and what fills them.
function drawWells(node, keys) {
  if (keys.length) element.style.setProperty('--n', keys.length);
  if (every('.well', node).map(one => one.dataset.key).join() === keys.join()) return;
  every('.well', node).forEach(one => one.remove());
  keys.forEach(key => {
    const figure = make('figure', 'well', node);
    figure.dataset.key = key;
    make('div', 'note', make('div', 'frame', figure), 'Press Compare');
    const head = make('div', 'head', make('figcaption', 'cap', figure));
    make('b', '', head, METHODS[key].replace(/,.*/, ''));
  });
}
