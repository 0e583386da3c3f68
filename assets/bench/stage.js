// Wipe, flicker and difference: two columns in one frame.
let timer = null;
let peek = false;
let other = false;

function stage() {
  const single = view.name !== 'side';
  const card = !$('.card').hidden;
  $('.cells').hidden = single || card;
  $('.stage').hidden = !single || card;
  $('.stage').className = 'stage ' + view.name + (view.vertical ? ' vertical' : '');
  every('[data-view]').forEach(button =>
    button.setAttribute('aria-pressed', button.dataset.view === view.name),
  );
  if (view.name !== 'flicker') {
    clearInterval(timer);
    timer = null;
    other = false;
  }
  if (single) drawStage();
  place();
}

function drawStage() {
  const keys = columns().map(cell => cell.key);
  if (!keys.includes(view.a)) view.a = keys[0];
  if (!keys.includes(view.b) || (view.b === view.a && keys.length > 1))
    view.b = keys.filter(key => key !== view.a).pop() || keys[0];
  for (const side of ['a', 'b']) {
    const select = $('.side-' + side);
    const names = columns().map(nameIn);
    if (select.dataset.names !== names.join()) {
      select.dataset.names = names.join();
      select.replaceChildren(
        ...keys.map((key, i) => Object.assign(make('option', '', null, names[i]), { value: key })),
      );
    }
    select.value = view[side];
    drawAbout($('aside.' + side), columnOf(view[side]));
  }
  const [a, b] = [columnOf(view.a), columnOf(view.b)];
  put('under', view.name === 'wipe' ? b : a);
  put('over', view.name === 'wipe' ? a : b);
  if (view.name === 'flicker' && !timer && !still.matches)
    timer = setInterval(() => {
      other = !other;
      turn();
    }, view.pace);
  tune();
  turn();
  const running =
    [a, b].find(cell => cell && ['step', 'loading', 'decoding'].includes(cell.state)) ||
    value().cells.find(cell => cell.state === 'step');
  $('.stage .progress').hidden = !running;
  if (running) drawProgress($('.stage .progress'), running);
  mark($('.stage'), [b, a].find(cell => cell && cell.state === 'done') || b || { state: '' }, '');
}

// A name, and where several columns have it, their settings.
function nameIn(cell) {
  const alike = columns().filter(other => other.name === cell.name).length > 1;
  return alike
    ? [cell.name, ...cell.set.map(part => part.slice(1).join(' '))].join(' ')
    : cell.name;
}

function put(name, cell) {
  const old = cell && finished.get(cell.key);
  setSource($('img.' + name), cell ? shownPicture(cell) || source(old) : '');
  setSource($('.stage video.' + name), film(cell));
  $('img.' + name).classList.toggle(
    'behind',
    !!film(cell) && $('.stage video.' + name).readyState >= 2,
  );
  $('img.' + name).alt = cell ? describe(cell) : '';
}

function drawAbout(aside, cell) {
  const node = $('.about', aside);
  node.replaceChildren();
  aside.classList.toggle('nag', !!cell && cell.key.includes('nag'));
  if (!cell) return;
  drawMeters(make('div', 'meters', node), cell);
  const list = make('dl', '', node);
  const facts = cell.set.map(part => [part[1], part[2]]);
  if (cell.cost) facts.push([cell.cost.unit, cell.cost.text]);
  if (cell.peak) facts.push(['GPU memory', cell.peak]);
  if (cell.made) facts.push(['steps', cell.made.num_inference_steps], ['seed', cell.made.seed]);
  for (const [name, text] of facts) {
    make('dt', '', list, name);
    make('dd', '', list, String(text));
  }
  make(
    'p',
    'small',
    node,
    cell.state === 'done' ? (value().sample ? 'sample' : '') : stateOf(cell),
  );
}

function turn() {
  const flicker = view.name === 'flicker';
  const top = flicker ? other !== peek : peek ? view.name !== 'wipe' : null;
  every('.stage .over').forEach(node => {
    node.style.opacity = flicker
      ? top
        ? view.mix / 100
        : 0
      : peek
        ? view.name === 'wipe'
          ? 0
          : 1
        : view.name === 'difference'
          ? 1
          : view.mix / 100;
  });
  $('.stage').classList.toggle('peeking', peek);
  $('.stage').classList.toggle('second', flicker && !!top);
  cut();
}

// Wipe: the cut is made in the picture's own box, before the zoom moves it.
function cut() {
  const at = view.vertical ? view.y : view.x;
  const edge = Math.min(100, Math.max(0, (100 * (view.wipe / 100 - at)) / view.zoom));
  const shape = view.vertical
    ? 'inset(0 0 ' + (100 - edge) + '% 0)'
    : 'inset(0 ' + (100 - edge) + '% 0 0)';
  every('.stage .over').forEach(node => {
    node.style.clipPath = view.name === 'wipe' ? shape : '';
  });
  $('.handle').style.setProperty('--at', view.wipe + '%');
  const frame = $('.stage .frame');
  const wiping = view.name === 'wipe';
  frame.setAttribute('role', wiping ? 'slider' : 'button');
  frame.setAttribute(
    'aria-label',
    {
      wipe: 'Wipe between the two pictures',
      flicker: 'Turn to the other picture',
      difference: 'Difference of the two pictures',
    }[view.name] || '',
  );
  for (const [name, number] of [
    ['valuemin', 0],
    ['valuemax', 100],
    ['valuenow', Math.round(view.wipe)],
  ]) {
    if (wiping) frame.setAttribute('aria-' + name, number);
    else frame.removeAttribute('aria-' + name);
  }
}

function tune() {
  for (const name of ['wipe', 'flicker', 'difference'])
    every('.for-' + name).forEach(node => {
      node.hidden = !node.classList.contains('for-' + view.name);
    });
  $('.gain + output').textContent = view.gain + '×';
  $('.pace + output').textContent = (view.pace / 1000).toFixed(1) + ' s';
  $('.mix + output').textContent = view.mix + ' %';
  $('.stage .frame').style.filter =
    view.name === 'difference' && !peek ? 'brightness(' + view.gain + ')' : '';
  if (view.name === 'difference') measure();
}

// Mean absolute difference of the two pictures that are shown, from their own pixels.
let measured = '';
async function measure() {
  const urls = ['a', 'b'].map(side => source(columnOf(view[side])));
  const key = urls.join(' ');
  if (!urls.every(Boolean)) {
    $('.mean').textContent = '';
    return;
  }
  if (urls[0] === urls[1]) {
    $('.mean').textContent = 'Both sides show the same picture.';
    return;
  }
  if (measured === key) return;
  measured = key;
  const mean = await meanDifference(...urls);
  if (measured !== key) return;
  $('.mean').textContent =
    mean === null
      ? 'The two pictures have not one size.'
      : 'Mean difference ' + mean.toFixed(1) + ' of 255. Black is equal.';
}

// 0 to 255, or null where the pictures cannot be laid on each other.
async function meanDifference(...urls) {
  if (!urls.every(Boolean)) return null;
  const [a, b] = await Promise.all(urls.map(pixels));
  if (!a || !b || a.length !== b.length) return null;
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (i % 4 < 3) sum += Math.abs(a[i] - b[i]);
  return sum / (a.length * 0.75);
}

async function pixels(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return null;
  }
  const canvas = Object.assign(document.createElement('canvas'), {
    width: image.naturalWidth,
    height: image.naturalHeight,
  });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  try {
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  } catch {
    return null;
  }
}

function setView(name) {
  view.name = name;
  stage();
  listenTo($('.sound').value);
  if (reel.playing) play();
  else seek(reel.frame); // other videos are in sight now
}

every('[data-view]').forEach(button =>
  button.addEventListener('click', () => setView(button.dataset.view)),
);
for (const side of ['a', 'b'])
  $('.side-' + side).addEventListener('change', event => {
    view[side] = event.target.value;
    stage();
  });
for (const name of ['gain', 'mix', 'pace']) {
  $('.' + name).addEventListener('input', event => {
    view[name] = Number(event.target.value);
    if (name === 'pace') {
      clearInterval(timer);
      timer = null;
    }
    stage();
  });
}
$('.vertical').addEventListener('change', event => {
  view.vertical = event.target.checked;
  stage();
});
$('.stage .frame').addEventListener('click', () => {
  if (view.name === 'flicker') {
    other = !other;
    turn();
  }
});
